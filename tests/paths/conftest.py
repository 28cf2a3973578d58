"""Two peers to play with."""

import pytest
from pathplay import Play


@pytest.fixture
def play() -> Play:
    return Play()
