"""What tests that need the control plane ask first, so that none is skipped in silence."""

from __future__ import annotations

import contextlib
import os

import pytest

from .binaries import Assets, NotObtainable, resolve

_known: list[Assets | NotObtainable] = []


def require_assets(config: pytest.Config | None = None) -> Assets:
    """Give the control plane's programs, or end the calling test or fixture.

    Where they are not to be had, that is a skip with the reason; with CI or REQUIRE set in the
    environment, where a skip would go unseen, it is a failure. Give the fixture `pytestconfig` to
    have the progress of a build shown at once, in spite of pytest's capturing.
    """
    if not _known:
        # Failures are kept too: each test module would try the same long build again.
        _known.append(_resolve(config))
    found = _known[0]
    if isinstance(found, Assets):
        return found
    if os.environ.get("CI") or os.environ.get("REQUIRE"):
        pytest.fail(f"{found}", pytrace=False)
    pytest.skip(f"CONTROL PLANE MISSING, NOTHING WAS TESTED HERE. {found}")


def _resolve(config: pytest.Config | None) -> Assets | NotObtainable:
    capture = config.pluginmanager.getplugin("capturemanager") if config is not None else None
    shown = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
    with shown:
        try:
            return resolve()
        except NotObtainable as error:
            return error
