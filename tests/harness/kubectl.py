"""Runs kubectl against one API server without touching the user's own configuration or cache."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

TIMEOUT = 120.0


class KubectlError(RuntimeError):
    """kubectl failed; `returncode`, `stdout` and `stderr` hold its answer, the message shows it."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: str, stderr: str) -> None:
        said = stderr.strip() or stdout.strip() or "no output"
        super().__init__(f"kubectl {' '.join(argv)}: exit status {returncode}: {said}")
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


def run_kubectl(
    program: Path,
    kubeconfig: Path,
    args: Sequence[str],
    *,
    input: str | None = None,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Run kubectl with one kubeconfig, `input` on its standard input, and give its answer.

    Raises KubectlError if it takes longer than `timeout` seconds; its exit status is the caller's
    to look at.
    """
    state = kubeconfig.parent
    argv = [str(program), f"--kubeconfig={kubeconfig}", f"--cache-dir={state / 'kubectl-cache'}"]
    try:
        return subprocess.run(
            [*argv, *args],
            # A whole environment of our own: KUBECTL_* and proxies of the user have no say here.
            env={"PATH": "/usr/bin:/bin", "HOME": str(state)},
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KubectlError(args, -1, "", f"not finished after {timeout:g} s") from error
