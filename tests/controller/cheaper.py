"""What tests with a controller in their own process don't pay for. Session fixtures, for each conftest.py of such tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import argon2
import pytest
import sqlalchemy as sa

from shadowmesh.controller.store import database


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Hashes of one pass over 8 kB: what one costs on purpose is a good part of a short test."""
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shadowmesh.controller.service.passwords._hasher", lambda: cheap)
        yield


@pytest.fixture(scope="session", autouse=True)
def statements_compiled_once() -> Iterator[None]:
    """Each engine would compile the same statements anew: an eighth of a test with a controller of its own."""
    first = sa.create_engine("sqlite://", query_cache_size=5000)
    first.connect().close()
    make_engine = database.make_engine

    def sharing(url: sa.URL, **options: Any) -> sa.Engine:
        engine = make_engine(url, **options)
        if engine.dialect.name == "sqlite":
            engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "make_engine", sharing)
        yield
