"""The shared table of counters: one record of u64 per peer, record 0 for what belongs to no peer."""

from __future__ import annotations

from typing import Final

from shadowmesh.model.pump import COUNTER_FIELDS

FIELDS: Final = len(COUNTER_FIELDS)
RECORDS: Final = 65536  # a sparse mapping: only records in use cost memory
TABLE_BYTES: Final = RECORDS * FIELDS * 8

TX_DIRECT: Final = COUNTER_FIELDS.index("tx_bytes_direct")  # bytes, then packets
RX_DIRECT: Final = COUNTER_FIELDS.index("rx_bytes_direct")
TX_RELAY: Final = COUNTER_FIELDS.index("tx_bytes_relay")
RX_RELAY: Final = COUNTER_FIELDS.index("rx_bytes_relay")
LAST_TX_DATA: Final = COUNTER_FIELDS.index("last_tx_data_ns")
LAST_RX_DATA: Final = COUNTER_FIELDS.index("last_rx_data_ns")
LAST_RX_ANY: Final = COUNTER_FIELDS.index("last_rx_any_ns")
NO_SESSION: Final = COUNTER_FIELDS.index("drop_no_session")
AUTH: Final = COUNTER_FIELDS.index("drop_auth")
DUPLICATE: Final = COUNTER_FIELDS.index("drop_duplicate")
SOURCE: Final = COUNTER_FIELDS.index("drop_source")
DESTINATION: Final = COUNTER_FIELDS.index("drop_destination")
FILTER: Final = COUNTER_FIELDS.index("drop_filter")
TOO_BIG: Final = COUNTER_FIELDS.index("drop_too_big")
QUEUE: Final = COUNTER_FIELDS.index("drop_queue")


class CounterTable:
    """Hands out records of a table that the deciding side reads while it is written."""

    def __init__(self, memory: memoryview) -> None:
        """`memory`: writable, zeroed, of format "Q", a multiple of the record size long."""
        self.memory = memory
        self._freed: list[int] = []
        self._next = 1
        self.nobody = self._record(0)

    def _record(self, number: int) -> memoryview:
        return self.memory[number * FIELDS : (number + 1) * FIELDS]

    def allocate(self, peer: int) -> tuple[int, memoryview]:
        """Number and zeroed record for a peer. When all are taken, number 0 and a private record that nobody sees."""
        if self._freed:
            number = self._freed.pop()
        elif self._next < len(self.memory) // FIELDS:
            number = self._next
            self._next += 1
        else:
            return 0, memoryview(bytearray(FIELDS * 8)).cast("Q")
        record = self._record(number)
        record[0] = peer + 1
        return number, record

    def release(self, number: int) -> None:
        """Takes a record back and clears it."""
        if number:
            record = self._record(number)
            for field in range(FIELDS):
                record[field] = 0
            self._freed.append(number)
