"""SimPump keeps the rules."""

from collections.abc import Iterator

import pytest
from conformance import Conformance
from pump_rig import Rig, SimRig


class TestSimPump(Conformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        rig = SimRig()
        yield rig
        rig.close()
