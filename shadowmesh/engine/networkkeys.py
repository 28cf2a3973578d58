"""Network keys by epoch, and which of them a handshake uses (design: epochs).

The responder uses the newest epoch that the initiator is known to hold; on a second initiation within RETRY_WINDOW
seconds without a confirmed session, another valid one. The initiator tries every valid epoch on message 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.model.netmap import NetworkMap
from shadowmesh.protocol.psk import derive_psk

RETRY_WINDOW = 15.0


class NetworkKeys:
    """The network keys of one network that this device holds."""

    def __init__(self, network_id: NetworkID, own: WireGuardPublicKey) -> None:
        self._network_id = network_id
        self._own = own
        self._keys: dict[int, Secret] = {}
        self._map: NetworkMap | None = None
        self._cache: dict[tuple[WireGuardPublicKey, int], Secret] = {}
        self._valid: list[int] = []
        self._valid_from = inf  # controller time for which `_valid` holds: up to, not including, `_valid_until`
        self._valid_until = inf

    def apply_map(self, netmap: NetworkMap) -> None:
        self._map = netmap
        self._valid_from = inf

    def put(self, keys: Mapping[int, Secret]) -> list[int]:
        """Takes keys in; returns the epochs that are new."""
        new = sorted(e for e, key in keys.items() if self._keys.get(e) != key)
        self._keys.update(keys)
        if new:
            self._cache.clear()
            self._valid_from = inf
        return new

    def valid(self, wall: float) -> Sequence[int]:
        """Epochs held that the map still allows at controller time `wall`, newest first."""
        if not self._valid_from <= wall < self._valid_until:
            held = sorted(self._keys, reverse=True)
            if self._map is None:
                return held
            ends = {e.epoch: inf if e.ends is None else e.ends for e in self._map.head.epochs}
            self._valid = [e for e in held if e in ends and wall < ends[e]]
            self._valid_from = max((at for at in ends.values() if at <= wall), default=-inf)
            self._valid_until = min((at for at in ends.values() if at > wall), default=inf)
        return self._valid

    def newest(self, wall: float) -> int:
        """The newest valid epoch held, 0 if none; told to peers in disco."""
        valid = self.valid(wall)
        return valid[0] if valid else 0

    def current(self, wall: float) -> int | None:
        """The epoch for new handshakes where nothing is known of the peer: the newest that is current already."""
        valid = self.valid(wall)
        if self._map is None or not valid:
            return valid[0] if valid else None
        limit = self._map.current_epoch(wall)
        return next((e for e in valid if e <= limit), valid[-1])

    def choose(self, known: int | None, tried: tuple[int, ...], wall: float) -> int | None:
        """The responder's choice. `known`: newest epoch that the initiator is known to hold; `tried`: those that were
        used within RETRY_WINDOW without success, oldest first."""
        valid = self.valid(wall)
        if not valid:
            return None
        best = known if known in valid else self.current(wall)
        order = [e for e in valid if e == best] + [e for e in valid if e != best]
        untried = [e for e in order if e not in tried]
        if untried:
            return untried[0]
        return next(e for e in tried if e in valid)

    def psk(self, peer: WireGuardPublicKey, epoch: int) -> Secret:
        """The pair's preshared key. Raises KeyError for an epoch that isn't held."""
        key = (peer, epoch)
        psk = self._cache.get(key)
        if psk is None:
            psk = derive_psk(self._keys[epoch], self._network_id, epoch, self._own, peer)
            if len(self._cache) >= 4096:
                self._cache.clear()
            self._cache[key] = psk
        return psk
