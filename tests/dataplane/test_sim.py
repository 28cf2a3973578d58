"""SimPump keeps the rules."""

from collections.abc import Iterator

import pytest
from conformance import Conformance
from pump_peer import Peer, ip_packet
from pump_rig import Rig, SimRig

from shadowmesh.dataplane.pumpstate import REJECT_AFTER_MESSAGES
from shadowmesh.model import pump as m


class TestSimPump(Conformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        rig = SimRig()
        yield rig
        rig.close()

    def test_a_session_without_counters_left_stops_sending(self, rig: SimRig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.sim.core.by_index[7].counter = REJECT_AFTER_MESSAGES - 1
        rig.host_sends(m.NetIndex(0), *[ip_packet("10.7.0.1", "10.7.0.2")] * 2)
        assert [keys.opened(d)[0] for d in rig.sent_to("peer", 1)] == [REJECT_AFTER_MESSAGES - 1]
        rig.expect(m.Wants)

    def test_packets_wait_for_a_path_too(self, rig: SimRig, peer: Peer) -> None:
        keys = peer.session(7)
        rig.apply(m.SetPath(peer.index, None))
        rig.host_sends(m.NetIndex(0), ip_packet("10.7.0.1", "10.7.0.2"))
        assert not rig.drain()  # there is a session: nothing is wanted
        rig.apply(m.SetPath(peer.index, peer.path))
        assert len([keys.opened(d) for d in rig.sent_to("peer", 1)]) == 1
