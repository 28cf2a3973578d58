"""Makes `pathplay` importable by the tests beside it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pathplay import Play


@pytest.fixture
def play() -> Play:
    return Play()
