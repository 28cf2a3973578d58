"""Labs for tests. What a machine lacks is said in the reason of the skip."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shadowmesh.lab.internet import Lab, missing
from shadowmesh.lab.plan import LabSpec

sys.path.insert(0, str(Path(__file__).parent))  # `meshkit` for the tests beside it

LabFactory = Callable[[LabSpec], Lab]
_numbers = itertools.count(1)


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
