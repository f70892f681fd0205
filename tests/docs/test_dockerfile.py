"""The Dockerfile: what the build in tests/harness/image.py, which brings bases of its own, would not notice."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import yaml

import registry_mirror
from tests.harness import image, imagebase

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
INSTALL = runpy.run_path(str(ROOT / "build" / "image" / "install.py"))


def given(instruction: str) -> list[str]:
    """What follows each instruction of that name, with runs of spaces made one."""
    return [" ".join(line.split()[1:]) for line in LINES if line.split()[0] == instruction]


def defaults() -> dict[str, str]:
    """The build arguments that have a default."""
    return dict(item.split("=", 1) for item in given("ARG") if "=" in item)


def test_bases_are_pinned_by_digest() -> None:
    for name in ("BASE", "BUILD_BASE"):
        registry, _, rest = defaults()[name].partition("/")
        assert "." in registry  # not whatever a client takes for the default registry
        assert re.fullmatch(r"[a-z0-9/_-]+:[\w.-]+@sha256:[0-9a-f]{64}", rest)
    stages = [item for item in given("FROM") if not item.startswith("base")]
    assert stages == ["${BASE} AS base", "--platform=${BUILDPLATFORM} ${BUILD_BASE} AS build"]


def test_the_last_stage_runs_nothing_and_takes_only_what_was_built() -> None:
    last = max(number for number, line in enumerate(LINES) if line.startswith("FROM"))
    words = [line.split()[0] for line in LINES[last:]]
    assert "RUN" not in words  # there is no shell, and no emulation for another platform
    assert [line for line in LINES[last:] if line.startswith("COPY")] == [
        f"COPY --from=build {INSTALL['BYTECODE']} /",
        f"COPY --from=build {INSTALL['PREFIX']} {INSTALL['PREFIX']}",
    ]


def test_nothing_is_fetched_but_by_the_locks() -> None:
    assert given("ADD") == []
    assert all(command.startswith("python3 install.py ") for command in given("RUN"))
    copied = [item for item in given("COPY") if not item.startswith("--from")]
    sources = {source for item in copied for source in item.split()[:-1]}
    assert sources | {"Dockerfile", ".dockerignore"} == set(image._COPIED)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sources == {line.removeprefix("!") for line in ignored if line.startswith("!")}


def test_python_is_of_one_version() -> None:
    assert INSTALL["VERSION"] == imagebase.PYTHON
    assert f"/python:{INSTALL['VERSION']}-slim-" in defaults()["BUILD_BASE"]
    assert f"/usr/lib/python{INSTALL['VERSION']}" in " ".join(given("COPY"))
    # Debian's release decides distroless's Python.
    assert f"-slim-{imagebase.SUITE}@" in defaults()["BUILD_BASE"]
    assert "/python3-debian13:nonroot@" in defaults()["BASE"]


def test_labels_and_version_are_true() -> None:
    (labels,) = given("LABEL")
    found = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', labels))
    assert set(found) == {"title", "description", "licenses", "base.name", "version", "revision"}
    assert defaults()["VERSION"] == registry_mirror.__version__


def test_nobody_is_root_unless_the_manifests_say_so() -> None:
    assert given("USER") == ["65532:65532"]
    controller = yaml.safe_load((ROOT / "manifests" / "base" / "controller.yaml").read_text().split("\n---\n")[0])
    assert controller["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 65532
    assert given("ENTRYPOINT") == ['["registry-mirror"]']
    (path,) = (item.split("=", 1)[1] for item in " ".join(given("ENV")).split() if item.startswith("PATH="))
    assert path.startswith(f"{INSTALL['PREFIX']}/bin:")
    for name in ("controller", "agent"):
        text = (ROOT / "manifests" / "base" / f"{name}.yaml").read_text()
        assert f"command: [registry-mirror, {name}]" in text
