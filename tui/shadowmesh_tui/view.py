"""What the screens share: the mesh, what the person has chosen of it, and the styles. And what they ask the app for.

The app makes the one View, changes it, and has the screens show it; they post messages upwards and don't know the app.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from textual.message import Message

from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.state import Mesh, PeerKey

Verb = Literal["up", "down"]


@dataclass(slots=True)
class View:
    """The mesh, the controller that is looked at (None: none is), and the styles of the theme that is on."""

    mesh: Mesh = field(default_factory=Mesh)
    desk: Desk | None = None
    styles: Palette = field(default_factory=dict)


class ChoiceChanged(Message):
    """Another network or peer was chosen in the mesh."""


class PingAsked(Message):
    def __init__(self, key: PeerKey) -> None:
        self.key = key
        super().__init__()


class DetailsAsked(Message):
    def __init__(self, key: PeerKey) -> None:
        self.key = key
        super().__init__()


class SwitchAsked(Message):
    """The chosen network is to be switched."""

    def __init__(self, verb: Verb) -> None:
        self.verb: Verb = verb
        super().__init__()


class WarningsAsked(Message):
    """The person wants to read the daemon's warnings."""
