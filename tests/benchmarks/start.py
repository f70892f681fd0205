"""How long the program takes to start: whole processes, from the shell's point of view.

python -m tests.benchmarks.start [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("registry-mirror")
RUNS = 15
_EXAMPLE = str(ROOT / "examples" / "dockerhub-through-harbor.yaml")
# What is started, and the limit that is set for it, in milliseconds.
STARTS: Mapping[str, tuple[Sequence[str], float]] = {
    "--help": (["--help"], 150),
    "render": (["render", "-f", _EXAMPLE, "--runtime", "k3s"], 300),
}


def start(argv: Sequence[str]) -> float:
    """The milliseconds that one run takes."""
    started = time.perf_counter()
    subprocess.run([PROGRAM, *argv], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def main() -> int:
    """Print a row a command."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    print(f"| registry-mirror, {runs} runs | fastest | median | limit |")
    print("| --- | --- | --- | --- |")
    for name, (argv, limit) in STARTS.items():
        start(argv)  # not counted: it reads the files from the disk
        times = [start(argv) for _ in range(runs)]
        print(f"| `{name}` | {min(times):.0f} ms | {statistics.median(times):.0f} ms | {limit:.0f} ms |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
