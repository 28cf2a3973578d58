"""What these tests need of the machine."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if os.geteuid() and Path(__file__).parent in item.path.parents and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
