"""Reading the pump's table of counters (`model.pump.COUNTER_FIELDS`)."""

from __future__ import annotations

from typing import NamedTuple

from shadowmesh.model.pump import COUNTER_FIELDS, PeerIndex

_FIELDS = len(COUNTER_FIELDS)
_TX_DIRECT, _RX_DIRECT, _TX_RELAY, _RX_RELAY = (
    COUNTER_FIELDS.index(f"{name}")
    for name in ("tx_bytes_direct", "rx_bytes_direct", "tx_bytes_relay", "rx_bytes_relay")
)
_LAST = COUNTER_FIELDS.index("last_tx_data_ns")
_DROPS = tuple((at, name.removeprefix("drop_")) for at, name in enumerate(COUNTER_FIELDS) if name.startswith("drop_"))
_AHEAD = 1024  # records looked at beyond the last one known, for a peer that isn't found


class Times(NamedTuple):
    """CLOCK_BOOTTIME nanoseconds, 0 for never."""

    tx_data: int
    rx_data: int
    rx_any: int


class Traffic(NamedTuple):
    """Bytes of inner packets."""

    rx: int
    tx: int
    rx_relay: int
    tx_relay: int


class CounterReader:
    """Finds a peer's record in the table and reads it. A peer without a record has done nothing."""

    def __init__(self, table: memoryview) -> None:
        """`table`: as `Pump.counters` gives it."""
        self._table = table if table.format == "Q" else table.cast("B").cast("Q")
        self._at: dict[int, int] = {}
        self._known = 0

    def times(self, peer: PeerIndex) -> Times | None:
        at = self._find(peer)
        if at is None:
            return None
        table = self._table
        return Times(table[at + _LAST], table[at + _LAST + 1], table[at + _LAST + 2])

    def traffic(self, peer: PeerIndex) -> Traffic:
        at = self._find(peer)
        if at is None:
            return Traffic(0, 0, 0, 0)
        t = self._table
        rx, tx = t[at + _RX_RELAY], t[at + _TX_RELAY]
        return Traffic(t[at + _RX_DIRECT] + rx, t[at + _TX_DIRECT] + tx, rx, tx)

    def drops(self, peer: PeerIndex | None) -> dict[str, int]:
        """Packets that were dropped, by cause, without the causes that never came up. None: those of no peer."""
        at = 0 if peer is None else self._find(peer)
        return {} if at is None else {cause: n for field, cause in _DROPS if (n := self._table[at + field])}

    def _find(self, peer: PeerIndex) -> int | None:
        at = self._at.get(peer)
        if at is not None and self._table[at] == peer + 1:
            return at
        table = self._table
        found = None
        end = min(len(table) // _FIELDS, self._known + _AHEAD)
        for number in range(1, end):
            owner = table[number * _FIELDS]
            if owner:
                self._at[owner - 1] = number * _FIELDS
                self._known = max(self._known, number)
                if owner == peer + 1:
                    found = number * _FIELDS
        return found
