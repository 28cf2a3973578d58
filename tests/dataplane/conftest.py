"""What these tests need of the machine; asserts of the conformance suite and its rigs explain themselves."""

import os
import shutil
from pathlib import Path

import pytest

from shadowmesh.dataplane.pumps import PUMP_NAMES, PumpName

pytest.register_assert_rewrite("conformance", "pump_rig", "pump_peer", "pump_streams")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and Path("/dev/net/tun").exists() and shutil.which("ip"):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and any(item.iter_markers(n) for n in ("lab", "root")):
            item.add_marker(pytest.mark.skip(reason="needs root, /dev/net/tun and iproute2"))


@pytest.fixture(params=PUMP_NAMES)
def pump_name(request: pytest.FixtureRequest) -> PumpName:
    """Each pump that runs as a process."""
    from pump_rig import pump_or_skip

    return pump_or_skip(request.param)
