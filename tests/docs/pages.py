"""Pages of docs/ followed as their reader does: every command is run, and what a page shows is what comes.

On a page, a fenced block is one of these, and nothing else:

- ``sh``: a script for bash, run from the directory of the project.
- ``console``: commands behind ``$``, or behind ``root@NODE:~#`` for a node, and below each what it prints. Spaces count
  as one, ages and digests are alike, an ellipsis stands for anything in a line, and alone for any number of lines.
- ``yaml``, ``toml``: a file, which its first line names (``# mirrors.yaml``, or ``# /etc/k0s/x.toml on NODE``).
- ``text``, ``mermaid``: nothing to be done.

What a test of pages cannot run is in ELSEWHERE, each with the test that does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# A command that is run by another test: how its line begins, and the test.
_INSTALL = "tests/nodes/test_install.py::"
_PULLED = f"{_INSTALL}test_an_image_comes_through_the_mirror_and_a_change_takes_no_restart"
ELSEWHERE: dict[str, str] = {
    r"docker (build|push) ": "tests/nodes/test_image.py::test_a_node_pulls_it",
    r"docker run .* registry:": "tests/nodes/test_pulls.py",
    r"docker logs mirror": _PULLED,
    r"kubectl delete -k ": "tests/apiserver/test_readme.py::test_the_readme_works_from_installation_to_uninstallation",
    r"kubectl .*rollout status ": f"{_INSTALL}test_it_is_installed_as_the_page_says",
    r"kubectl run ": _PULLED,
    r"kubectl wait .*pod/": _PULLED,
    r"kubectl delete pod ": _PULLED,
    r"registry-mirror probe ": _PULLED,
    r"registry-mirror doctor": _PULLED,
    r"registry-mirror seed ": "tests/nodes/test_seed.py",
    r"make ": "tests/apiserver/test_readme.py::test_make_targets_exist",
}
_TIMEOUT = 300.0
_LOOK_AGAIN = 60.0
_POLL = 0.3
# These only look, and are asked again until they say what the page shows.
_LOOKS = re.compile(r"(kubectl (get|describe) |registry-mirror (status|probe|doctor)\b|cat |ls |grep )")
# Exit codes other than 0 that say what was found.
_TELLS = re.compile(r"registry-mirror (status|diff|doctor)\b")
_PROMPT = re.compile(r"^(?:\$ |root@(?P<node>[\w-]+):~# )")
_NAME = re.compile(r"^# (?P<path>\S+\.(?:yaml|toml|conf|crt))(?: on (?P<node>[\w-]+))?$")
_ON_A_NODE = re.compile(r"(?<![\w./:=-])/(?=(?:etc|var|opt)/)")
_AGE = re.compile(r"(?<![\w.])(?:\d+[dhms])+(?![\w.])")
_HEX = re.compile(r"\b(?:sha256:)?[0-9a-f]{12,64}\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, below which headings, and what is in it."""

    page: Path
    line: int
    headings: tuple[str, ...]
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page in order."""
    headings: list[str] = []
    lines = enumerate(page.read_text().splitlines(), 1)
    for number, line in lines:
        if found := re.match(r"(#+) (.*)", line):
            headings = [*headings[: len(found[1]) - 1], found[2]]
        elif line.startswith("```"):
            text = "".join(f"{inner}\n" for _, inner in takewhile(lambda item: item[1] != "```", lines))
            yield Block(page, number, tuple(headings), line[3:], text)


def below(page: Path, *headings: str) -> list[Block]:
    """Give the blocks of a page that stand below one of those headings. Raises AssertionError if one has none."""
    found = [block for block in blocks(page) if set(headings) & set(block.headings)]
    assert {item for block in found for item in block.headings} >= set(headings), (page, headings)
    return found


def lines_of(script: str) -> list[str]:
    """Give the lines of a script, those that go on in the next line as one."""
    return script.replace("\\\n", " ").splitlines()


def commands(block: Block) -> list[str]:
    """Give the commands of a block, without comments."""
    if block.language == "sh":
        return [line.partition("  #")[0].strip() for line in lines_of(block.text) if line and line[0] != "#"]
    if block.language == "console":
        return [_PROMPT.sub("", line) for line in block.text.splitlines() if _PROMPT.match(line)]
    return []


def run_elsewhere(command: str, but: Sequence[str] = ()) -> str:
    """Give the test that runs a command in place of the pages'; empty if there is none. ``but`` are run here."""
    return next((test for how, test in ELSEWHERE.items() if how not in but and re.match(how, command.strip())), "")


class Reader:
    """Who follows pages: a directory to work in, an environment, and nodes that are directories of this machine.

    ``yours`` replaces what a page says is the reader's own to choose, ``nodes`` tells where a node's files are, and
    ``here`` are the keys of ELSEWHERE that can be run here. ``written`` has the files that pages had it write on nodes.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str],
        *,
        yours: Mapping[str, str] | None = None,
        nodes: Mapping[str, Path] | None = None,
        here: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.nodes = dict(nodes or {})
        self.yours = dict(yours or {})
        self.written: dict[str, dict[str, str]] = {node: {} for node in self.nodes}
        self._here = here
        tools = directory / "tools"
        tools.mkdir()
        self._state = tools / "environment"
        self.env = {**env, "PATH": f"{tools}:{env['PATH']}", "PYTHONPATH": str(ROOT / "operator")}
        self.tool("registry-mirror", f'exec {shlex.quote(sys.executable)} -m registry_mirror "$@"')
        # What a node is asked for or given goes by directories here.
        places = "".join(f"-e 's#^root@{node}:#{root}#' " for node, root in self.nodes.items()) or "-e ''"
        copy = f'if [ "$1" = -r ]; then shift; fi; from=$(echo "$1" | sed {places}); to=$(echo "$2" | sed {places})'
        self.tool("scp", f'{copy}\nmkdir -p "$(dirname "$to")" && cp -r "$from" "$to"')
        for name in ("manifests", "crds", "examples"):
            shutil.copytree(ROOT / name, directory / name, dirs_exist_ok=True)

    def tool(self, name: str, script: str) -> None:
        """Put a program on the reader's path."""
        path = self.directory / "tools" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def follow(self, found: Iterable[Block]) -> None:
        """Do what the blocks say. Raises AssertionError where it does not come out as the page says."""
        for block in found:
            if block.language == "sh":
                lines = [line for line in lines_of(block.text) if not run_elsewhere(line, self._here)]
                self._run(str(block), "\n".join(lines))
            elif block.language == "console":
                self._session(block)
            elif block.language in ("yaml", "toml"):
                self._write(block)
            else:
                assert block.language in ("text", "mermaid"), f"{block}: a block of {block.language!r}"

    def _write(self, block: Block) -> None:
        named = _NAME.match(block.text.partition("\n")[0])
        assert named, f"{block}: its first line does not name the file"
        path = self.directory / named["path"]
        if named["node"]:
            path = self.nodes[named["node"]] / named["path"].lstrip("/")
            self.written[named["node"]][named["path"]] = block.text
        assert path.is_relative_to(self.directory) or named["node"], f"{block}: {path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._theirs(block.text))

    def _session(self, block: Block) -> None:
        lines = block.text.splitlines()
        while lines:
            first = lines.pop(0)
            prompt = _PROMPT.match(first)
            assert prompt, f"{block}: {first!r} is no command"
            shown = list(takewhile(lambda line: not _PROMPT.match(line), lines))
            del lines[: len(shown)]
            command = first[prompt.end() :]
            if not run_elsewhere(command, self._here):
                self._compare(block, prompt["node"], command, shown)

    def _compare(self, block: Block, node: str | None, command: str, shown: list[str]) -> None:
        deadline = time.monotonic() + (_LOOK_AGAIN if _LOOKS.match(command) else 0)
        wanted = pattern(shown)
        while True:
            try:
                said = self._run(str(block), command, node=node, codes=(0, 3, 4) if _TELLS.match(command) else (0,))
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)
                continue
            if wanted.fullmatch("\n".join(map(_plain, said.splitlines())).strip()):
                return
            assert time.monotonic() < deadline, f"{block}: {command}\n{said}\nis not\n" + "\n".join(shown)
            time.sleep(_POLL)

    def _run(self, where: str, script: str, node: str | None = None, codes: tuple[int, ...] = (0,)) -> str:
        """Run a script as the reader or on a node; gives what it prints, with the names that the page has."""
        text = self._theirs(script)
        if node is not None:
            text = self._on(self.nodes[node], text)
        else:
            text = f"set -e\n{text}\nenv -0 > {shlex.quote(str(self._state))}\n" if codes == (0,) else text
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT,
        )
        assert done.returncode in codes, f"{where}: exit code {done.returncode} of\n{text}\n{done.stdout}"
        if node is None and codes == (0,):
            entries = self._state.read_text().split("\0")
            self.env = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        return self._pages(done.stdout)

    @staticmethod
    def _on(root: Path, command: str) -> str:
        """Have a command for a node work below that node's directory."""
        words = r"registry-mirror (import|apply|restore|doctor|probe)\b"
        return re.sub(words, rf"\g<0> --root {root}", _ON_A_NODE.sub(f"{root}/", command))

    def _theirs(self, text: str) -> str:
        for name, own in self.yours.items():
            text = text.replace(name, own)
        return text

    def _pages(self, text: str) -> str:
        for root in self.nodes.values():
            text = text.replace(str(root), "")
        for name, own in self.yours.items():
            text = text.replace(own, name)
        return text


def _plain(line: str) -> str:
    return " ".join(_HEX.sub("DIGEST", _AGE.sub("AGE", line)).split())


def pattern(shown: Iterable[str]) -> re.Pattern[str]:
    """What a command may print, given what a page shows of it; nothing shown is anything."""
    lines = list(shown)
    if not lines:
        return re.compile(r".*", re.DOTALL)
    parts = []
    for line in lines:
        words = map(re.escape, _plain(line).split("…"))
        parts.append(r"(?:[^\n]*(?:\n|$))*?" if line.strip() == "…" else f"{'.*'.join(words)}(?:\\n|$)")
    return re.compile("".join(parts))


def environment(kubeconfig: Path, kubectl: Path, home: Path) -> dict[str, str]:
    """An environment in which kubectl and registry-mirror find a cluster, and nothing else of this machine."""
    keep = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    path = f"{kubectl.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return {**keep, "PATH": path, "HOME": str(home), "KUBECONFIG": str(kubeconfig)}
