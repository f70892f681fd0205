"""What tests that need the control plane ask first, so that none is skipped in silence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from .binaries import Assets, NotObtainable, resolve
from .image import ImageMissing, operator_image
from .nodebinaries import ClusterPrograms, NodePrograms, NodesMissing, cluster_programs, node_programs
from .ocilayout import Layout
from .openrc import openrc_package
from .skopeo import SkopeoMissing, on_path, skopeo

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Exception)

_known: list[Assets | NotObtainable] = []
_known_nodes: list[NodePrograms | NodesMissing] = []


def require_assets(config: pytest.Config | None = None) -> Assets:
    """Give the control plane's programs, or end the calling test or fixture.

    Where they are not to be had, that is a skip with the reason; with CI or REQUIRE set in the
    environment, where a skip would go unseen, it is a failure. Give the fixture `pytestconfig` to
    have the progress of a build shown at once, in spite of pytest's capturing.
    """
    if not _known:
        # Failures are kept too: each test module would try the same long build again.
        _known.append(_shown(config, resolve, NotObtainable))
    found = _known[0]
    return found if isinstance(found, Assets) else _missing("CONTROL PLANE MISSING", found)


def require_nodes(config: pytest.Config | None = None) -> NodePrograms:
    """Give what nodes run, or end the calling test or fixture as `require_assets` does."""
    if not _known_nodes:
        _known_nodes.append(_shown(config, node_programs, NodesMissing))
    found = _known_nodes[0]
    return found if isinstance(found, NodePrograms) else _missing("NODES MISSING", found)


def require_cluster(config: pytest.Config | None = None) -> ClusterPrograms:
    """Give kubelet and what else a cluster of nodes needs, or end the calling test or fixture as above."""
    found = _shown(config, cluster_programs, NodesMissing)
    return found if isinstance(found, ClusterPrograms) else _missing("NODES MISSING", found)


def require_image(config: pytest.Config | None = None, architecture: str | None = None) -> Layout:
    """Give the operator's image, by default for this machine, or end the calling test or fixture as above."""
    found = _shown(config, lambda: operator_image(architecture), ImageMissing)
    return found if isinstance(found, Layout) else _missing("IMAGE MISSING", found)


def require_openrc(config: pytest.Config | None = None) -> Path:
    """Give where OpenRC is, or end the calling test or fixture as above."""
    found = _shown(config, openrc_package, NodesMissing)
    return found if isinstance(found, Path) else _missing("OPENRC MISSING", found)


def require_skopeo(config: pytest.Config | None, directory: Path) -> str:
    """Make a directory with the program `skopeo`, for PATH, or end the calling test or fixture as above."""
    found = _shown(config, skopeo, SkopeoMissing)
    return on_path(directory) if isinstance(found, Path) else _missing("SKOPEO MISSING", found)


def _missing(what: str, why: Exception) -> NoReturn:
    if os.environ.get("CI") or os.environ.get("REQUIRE"):
        pytest.fail(f"{why}", pytrace=False)
    pytest.skip(f"{what}, NOTHING WAS TESTED HERE. {why}")


def _shown(config: pytest.Config | None, get: Callable[[], _T], missing: type[_E]) -> _T | _E:
    """What ``get`` gives, or why it is missing; the progress is shown in spite of pytest's capturing."""
    capture = config.pluginmanager.getplugin("capturemanager") if config is not None else None
    shown = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
    with shown:
        try:
            return get()
        except missing as error:
            return error
