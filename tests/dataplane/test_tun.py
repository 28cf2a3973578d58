"""The python pump keeps the rules with real TUN devices in namespaces."""

from collections.abc import Iterator

import pytest
from conformance import Conformance
from pump_rig import Rig, TunRig


@pytest.mark.root
class TestPythonPumpOnTun(Conformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        rig = TunRig()
        try:
            yield rig
        finally:
            rig.close()
