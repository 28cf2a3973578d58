"""Each pump keeps the rules with real TUN devices in namespaces."""

from collections.abc import Iterator

import pytest
from conformance import Conformance
from pump_peer import Peer, ip_packet
from pump_rig import Rig, TunRig

from shadowmesh.dataplane.pumps import PumpName
from shadowmesh.model import pump as m


@pytest.mark.root
class TestPumpOnTun(Conformance):
    @pytest.fixture
    def rig(self, pump_name: PumpName) -> Iterator[Rig]:
        rig = TunRig(pump_name)
        try:
            yield rig
        finally:
            rig.close()

    def test_an_interface_that_someone_deletes_is_told(self, rig: TunRig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.run_inside(m.NetIndex(0), "ip", "link", "set", "dptun", "down")
        rig.arrive(m.Slot(0), "peer", keys.seal(ip_packet("10.7.0.2", "10.7.0.1")))
        rig.expect_counter(peer.index, "drop_queue", 1)  # down loses packets and is no reason to give up
        rig.run_inside(m.NetIndex(0), "ip", "link", "del", "dptun")
        (gone,) = rig.expect(m.DescriptorGone)
        assert isinstance(gone, m.DescriptorGone)
        assert (gone.what, gone.index) == (m.DescriptorKind.TUN, 0)
        rig.sync()  # and the pump goes on
