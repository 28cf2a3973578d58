"""The big worlds begin first: on two workers, the longest test of all must not be the one that both wait for at the end."""

import pytest

LONGEST = ("test_world_b_60_nodes", "test_world_a_30_nodes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.name.startswith(LONGEST))
