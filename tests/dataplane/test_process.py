"""The python pump in its process keeps the rules: rootless, with socketpairs where TUN descriptors would be."""

from collections.abc import Iterator

import pytest
from conformance import Conformance
from pump_rig import ProcessRig, Rig


class TestPythonPumpOnSocketpairs(Conformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        rig = ProcessRig()
        yield rig
        rig.close()
