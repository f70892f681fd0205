"""The oracles, one process a session; where they cannot be built that is loud, and with CI or REQUIRE a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.harness.oracles import Containerd, OraclesMissing, Programs, Wharfie, programs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "oracles":
            item.add_marker(pytest.mark.oracles)


@pytest.fixture(scope="session")
def oracles(pytestconfig: pytest.Config) -> Programs:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            return programs()
    except OraclesMissing as error:
        if os.environ.get("CI") or os.environ.get("REQUIRE"):
            pytest.fail(f"{error}", pytrace=False)
        pytest.skip(f"ORACLES MISSING, NOTHING WAS TESTED HERE. {error}")


@pytest.fixture(scope="session")
def containerd_2(oracles: Programs) -> Iterator[Containerd]:
    with Containerd(oracles.containerd_2) as oracle:
        yield oracle


@pytest.fixture(scope="session")
def containerd_1(oracles: Programs) -> Iterator[Containerd]:
    with Containerd(oracles.containerd_1) as oracle:
        yield oracle


@pytest.fixture(scope="session")
def wharfie(oracles: Programs) -> Iterator[Wharfie]:
    with Wharfie(oracles.wharfie) as oracle:
        yield oracle
