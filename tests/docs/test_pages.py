"""The reader of pages: it does what a page says, and notices where that does not come out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, Reader, blocks, lines_of, pattern, run_elsewhere

TABLE = ["NAME   READY   AGE", "pi-1   True    8s"]


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        (TABLE, "NAME READY AGE\npi-1 True AGE", True),
        (TABLE, "NAME READY AGE\npi-1 False AGE", False),
        (TABLE, "NAME READY AGE\npi-1 True AGE\npi-2 True AGE", False),
        (TABLE, "NAME READY AGE", False),
        (["a … c"], "a b b c", True),
        (["a … c"], "a b", False),
        (["a", "…", "d"], "a\nb\nc\nd", True),
        (["a", "…", "d"], "a\nd", True),
        (["a", "…", "d"], "a\nb\nc", False),
        (["…", "d"], "", False),
        ([], "whatever\nit is", True),
        (["a.c"], "abc", False),
        (["for sha256:0123456789abcdef0123456789abcdef"], "for DIGEST", True),
    ],
)
def test_what_is_shown_is_compared(shown: list[str], said: str, same: bool) -> None:
    assert bool(pattern(shown).fullmatch(said)) is same


def block(language: str, text: str) -> Block:
    return Block(ROOT / "docs" / "page.md", 1, ("Page",), language, text)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    (tmp_path / "node").mkdir()
    (tmp_path / "reader").mkdir()
    path = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    yours = {"mirror.example.com": "127.0.0.1:5000"}
    return Reader(tmp_path / "reader", path, yours=yours, nodes={"pi-1": tmp_path / "node"})


def test_a_script_is_run_and_what_it_exports_stays(reader: Reader) -> None:
    reader.follow([block("sh", "export WHO=me\n"), block("console", "$ echo $WHO at mirror.example.com\nme at …\n")])


@pytest.mark.parametrize(
    ("language", "text", "why"),
    [
        ("sh", "true\nfalse\ntrue\n", "exit code 1"),
        ("console", "$ echo one\ntwo\n", "is not"),
        ("console", "$ false\n", "exit code 1"),
        ("console", "echo one\n", "is no command"),
        ("yaml", "kind: Pod\n", "does not name the file"),
        ("yaml", "# ../outside.yaml on\nkind: Pod\n", "does not name the file"),
        ("bash", "true\n", "a block of 'bash'"),
    ],
)
def test_what_does_not_come_out_is_said(reader: Reader, language: str, text: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        reader.follow([block(language, text)])


def test_a_node_is_a_directory(reader: Reader) -> None:
    reader.follow(
        [
            block("yaml", "# mirrors.yaml\nurl: https://mirror.example.com\n"),
            block("yaml", "# /etc/rancher/k3s/registries.yaml on pi-1\nmirrors: {}\n"),
            block("console", "$ scp mirrors.yaml root@pi-1:/etc/mirrors.yaml\n"),
            block("console", "root@pi-1:~# cat /etc/mirrors.yaml\n…\nurl: https://mirror.example.com\n"),
            block("console", "root@pi-1:~# ls /etc/rancher/k3s/registries.yaml\n/etc/rancher/k3s/registries.yaml\n"),
        ]
    )
    assert "https://127.0.0.1:5000" in (reader.nodes["pi-1"] / "etc/mirrors.yaml").read_text()
    assert set(reader.written["pi-1"]) == {"/etc/rancher/k3s/registries.yaml"}


def test_only_what_another_test_runs_is_left_out(reader: Reader) -> None:
    reader.follow([block("sh", "docker push somewhere\necho done > proof\n")])
    assert (reader.directory / "proof").exists()
    assert run_elsewhere("docker push somewhere")
    assert not run_elsewhere("docker push somewhere", but=["docker (build|push) "])
    assert not run_elsewhere("echo docker push")


def test_lines_that_go_on_are_one() -> None:
    assert lines_of("kubectl run \\\n  x\ny\n") == ["kubectl run    x", "y"]


def test_blocks_know_where_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n## B\n\n```sh\n# no heading\n```\n\n## C\n\n```text\nx\n```\n")
    assert [(item.line, item.headings, item.text) for item in blocks(page)] == [
        (5, ("A", "B"), "# no heading\n"),
        (11, ("A", "C"), "x\n"),
    ]
