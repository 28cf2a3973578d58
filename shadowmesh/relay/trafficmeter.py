"""What each client used since it was last asked, out of the counts of its sessions."""

from __future__ import annotations

from shadowmesh.model.ids import ClientID
from shadowmesh.protocol.relay import PREFIX_SIZE
from shadowmesh.relay.sessiontable import ClientSession

INNER_OVERHEAD = PREFIX_SIZE + 32  # of a frame, around an inner packet: the prefix, WireGuard's header and tag


class TrafficMeter:
    def __init__(self) -> None:
        self._used: dict[ClientID, list[int]] = {}

    def count(self, session: ClientSession) -> None:
        """Takes what its counts have grown by; they are to be up to date."""
        counts = session.rx_frames, session.rx_bytes, session.tx_frames, session.tx_bytes
        if counts == session.told or not session.token.client_id:
            return
        frames_in, bytes_in, frames_out, bytes_out = (a - b for a, b in zip(counts, session.told, strict=True))
        session.told = counts
        used = self._used.setdefault(session.token.client_id, [0, 0])
        used[0] += max(0, bytes_in - frames_in * INNER_OVERHEAD)
        used[1] += max(0, bytes_out - frames_out * INNER_OVERHEAD)

    def take(self) -> dict[ClientID, tuple[int, int]]:
        """Inner bytes sent and received, by client, since the last call."""
        taken, self._used = self._used, {}
        return {client_id: (sent, received) for client_id, (sent, received) in taken.items() if sent or received}
