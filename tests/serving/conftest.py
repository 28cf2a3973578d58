"""Logs as before any test that configured them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logs_to_the_screen() -> Iterator[None]:
    """As before any test that configured logging, to a stream of its own."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)
