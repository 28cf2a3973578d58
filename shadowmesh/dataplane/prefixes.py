"""Longest-prefix maps: which peer has an inner address, which addresses are this host's.

One dictionary per prefix length, longest first, and a bounded cache of answers keyed by the address's own
bytes as they stand in a packet (4 or 16 of them), so that the usual lookup is one dictionary access.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from shadowmesh.model.addresses import IPNetwork

V = TypeVar("V")

CACHE_LIMIT = 65536


class PrefixMap(Generic[V]):
    """Maps networks to values; `lookup` finds the value of the longest prefix that holds an address."""

    __slots__ = ("_cache", "_tables", "_v4", "_v6")

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], dict[int, V]] = {}  # (address bits, prefix length) → prefix → value
        self._v4: list[tuple[int, dict[int, V]]] = []  # (shift, table), longest first
        self._v6: list[tuple[int, dict[int, V]]] = []
        self._cache: dict[bytes, V | None] = {}

    def put(self, network: IPNetwork, value: V) -> None:
        """Sets the value of a prefix; another's claim on the same prefix ends."""
        bits = network.max_prefixlen
        shift = bits - network.prefixlen
        key = (bits, network.prefixlen)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = {}
            self._order()
        table[int(network.network_address) >> shift] = value
        self._cache.clear()

    def discard(self, network: IPNetwork, value: V) -> None:
        """Removes a prefix if it still has this value."""
        bits = network.max_prefixlen
        table = self._tables.get((bits, network.prefixlen))
        prefix = int(network.network_address) >> (bits - network.prefixlen)
        if table is not None and table.get(prefix) is value:
            del table[prefix]
            if not table:
                del self._tables[bits, network.prefixlen]
                self._order()
            self._cache.clear()

    def lookup(self, address: bytes) -> V | None:
        """The value for an address of 4 or 16 bytes, None where no prefix holds it."""
        try:
            return self._cache[address]
        except KeyError:
            pass
        number = int.from_bytes(address, "big")
        found: V | None = None
        for shift, table in self._v4 if len(address) == 4 else self._v6:
            found = table.get(number >> shift)
            if found is not None:
                break
        if len(self._cache) >= CACHE_LIMIT:  # a scan of a large subnet must not eat memory
            self._cache.clear()
        self._cache[address] = found
        return found

    def _order(self) -> None:
        def ordered(bits: int) -> list[tuple[int, dict[int, V]]]:
            lengths = sorted((length for b, length in self._tables if b == bits), reverse=True)
            return [(bits - length, self._tables[bits, length]) for length in lengths]

        self._v4, self._v6 = ordered(32), ordered(128)


def prefix_set(networks: Iterable[IPNetwork]) -> PrefixMap[bool]:
    """A map that answers True for every address in one of `networks`."""
    found: PrefixMap[bool] = PrefixMap()
    for network in networks:
        found.put(network, True)
    return found
