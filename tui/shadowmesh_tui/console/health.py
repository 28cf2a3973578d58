"""How a network is: a word and a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from shadowmesh.model.api import Network, Relay

Level = Literal["good", "muted", "warning", "error"]
_NEARLY = 0.9


@dataclass(frozen=True, slots=True)
class Health:
    level: Level
    word: str
    why: str

    @property
    def mark(self) -> str:
        return {"good": "●", "muted": "○", "warning": "!", "error": "✗"}[self.level]


def health(network: Network, relays: Iterable[Relay]) -> Health:
    """The worst of what is the matter with it."""
    known = list(relays)
    if not network.p2p_enabled and not network.relay_fallback:
        return Health("error", "no way", "direct paths and relay fallback are both off: nobody reaches anybody")
    if network.relay is not None and network.relay_fallback:
        relay = next((r for r in known if r.name == network.relay), None)
        if relay is None or not relay.online:
            return Health("warning", "relay away", f"its relay {network.relay} is not connected")
    elif network.relay_fallback and known and not any(r.online for r in known):
        return Health("warning", "relays away", "no relay is connected: who isn't direct isn't reached")
    elif not network.p2p_enabled and not known:
        return Health("warning", "no relay", "direct paths are off, and there is no relay")
    if network.clients >= network.max_clients:
        return Health("warning", "full", f"all {network.max_clients} places are taken: nobody can join")
    if network.clients >= _NEARLY * network.max_clients:
        return Health("warning", "nearly full", f"{network.clients} of {network.max_clients} places are taken")
    if network.clients == 0:
        return Health("muted", "empty", "nobody has joined yet")
    if network.clients_online == 0:
        return Health("muted", "nobody online", "no client is connected to the controller")
    return Health("good", "healthy", "nothing is the matter")
