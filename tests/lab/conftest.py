"""Labs for tests. What a machine lacks is said in the reason of the skip."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from shadowmesh.lab.internet import Lab, missing
from shadowmesh.lab.plan import LabSpec

Told = Callable[[str, object], None]
LabFactory = Callable[[LabSpec], Lab]
_numbers = itertools.count(1)
WAITING = ("test_wireguard.py", "test_chaos.py")


def _factory() -> Iterator[LabFactory]:
    lacking = missing()
    if lacking:
        pytest.skip(f"LAB TESTS NOT RUN: {lacking}")
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(Lab(spec, f"t{os.getpid()}n{next(_numbers)}"))


@pytest.fixture
def lab_factory() -> Iterator[LabFactory]:
    """Makes labs that are gone after the test, whatever happens to it."""
    yield from _factory()


@pytest.fixture(scope="module")
def module_lab_factory() -> Iterator[LabFactory]:
    """Makes labs that are gone after the tests of the module."""
    yield from _factory()


@pytest.fixture(scope="session")
def session_lab_factory() -> Iterator[LabFactory]:
    """Makes labs that are gone after all tests."""
    yield from _factory()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On several workers, a file is one worker's, for its tests share a lab.

    `WAITING` are the files with tests that wait for WireGuard's two minutes (by their turns), and what is done meanwhile.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None and any(map(item.get_closest_marker, ("lab", "root"))):
            group = "waiting" if item.path.name in WAITING else item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Told:
    """Notes a measured figure in the report, and on the screen with -s."""

    def tell(name: str, value: object) -> None:
        record_property(name, value)
        print(f"{name}: {value}")

    return tell
