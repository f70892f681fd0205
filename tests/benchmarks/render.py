"""How long it takes to render 200 mirrors: the pure function, and the whole command with its start.

make bench
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from registry_mirror.api import parse
from registry_mirror.core.layout import default_facts
from registry_mirror.core.render import RENDERERS, render
from registry_mirror.core.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
COUNT = 200
PURE_RUNS = 15
PROCESS_RUNS = 7


def documents() -> list[dict[str, Any]]:
    """RegistryMirrors with two endpoints each, one of them with a path and a timeout."""
    return [
        {
            "apiVersion": "registrymirror.io/v1alpha1",
            "kind": "RegistryMirror",
            "metadata": {"name": f"mirror-{index}", "uid": str(index)},
            "spec": {
                "registry": f"registry-{index}.example.com",
                "endpoints": [
                    {"url": f"https://harbor.example.com/v2/proxy-{index}", "dialTimeout": "5s"},
                    {"url": "https://mirror.example.com"},
                ],
            },
        }
        for index in range(COUNT)
    ]


def median_ms(call: Callable[[], object], runs: int) -> float:
    """The median time of a call, in milliseconds, after one that is not counted."""
    call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def main() -> int:
    """Print a row a runtime."""
    found = documents()
    mirrors = [resolve(parse.registry_mirror(item), {}) for item in found]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    start = median_ms(lambda: _run(["--help"], env), PROCESS_RUNS)
    print(f"registry-mirror --help, whole process: {start:.0f} ms")
    print("| runtime | 200 mirrors, pure | registry-mirror render, whole process |")
    print("| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mirrors.yaml"
        path.write_text(yaml.safe_dump_all(found))
        for name in RENDERERS:
            facts = default_facts(name)
            pure = median_ms(lambda facts=facts: render(facts, mirrors), PURE_RUNS)  # type: ignore[misc]
            argv = ["render", "-f", str(path), "--runtime", name]
            whole = median_ms(lambda argv=argv: _run(argv, env), PROCESS_RUNS)  # type: ignore[misc]
            print(f"| {name} | {pure:.0f} ms | {whole:.0f} ms |")
    return 0


def _run(argv: list[str], env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "registry_mirror", *argv]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
