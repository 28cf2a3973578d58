"""The main screens of a controller, in the order of their tabs. A screen that is added here has a tab, a key, a command and help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shadowmesh.model.api import Permission
from shadowmesh_tui.console.state import Console, Wants
from shadowmesh_tui.screens.console.approvals import ApprovalsScreen
from shadowmesh_tui.screens.console.auditscreen import AuditScreen
from shadowmesh_tui.screens.console.base import ConsoleScreen
from shadowmesh_tui.screens.console.dashboard import ControllerDashboard
from shadowmesh_tui.screens.console.logscreen import NetworkLogScreen
from shadowmesh_tui.screens.console.peoplescreen import PeopleScreen
from shadowmesh_tui.screens.console.relayscreen import RelaysScreen
from shadowmesh_tui.screens.console.templatescreen import TemplatesScreen
from shadowmesh_tui.screens.console.topologyscreen import NetworkTopologyScreen
from shadowmesh_tui.screens.console.usagescreen import UsageScreen
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.consolebar import Tab


def _always(_console: Console) -> bool:
    return True


def _administers(console: Console) -> bool:
    return console.who is not None and console.who.administers


def _no_badge(_console: Console) -> int:
    return 0


def _nothing(_console: Console) -> Wants:
    return Wants()


def _topology(console: Console) -> Wants:
    return Wants() if console.network is None else Wants(topologies={console.network.network_id})


@dataclass(frozen=True, slots=True)
class Entry:
    """`offered`: whether who is signed in has any use for it. `badge`: a number beside its name, 0: none. `figures`: what it shows
    that no event tells, besides the clients of the chosen network: it is read again every few seconds."""

    key: str
    screen: Callable[[View], ConsoleScreen]
    name: str
    what: str
    offered: Callable[[Console], bool] = _always
    badge: Callable[[Console], int] = _no_badge
    figures: Callable[[Console], Wants] = _nothing

    @property
    def mode(self) -> str:
        return f"console-{self.name}"


SCREENS: Sequence[Entry] = (
    Entry("1", ControllerDashboard, ControllerDashboard.NAME, "Networks and their clients"),
    Entry(
        "2",
        ApprovalsScreen,
        ApprovalsScreen.NAME,
        "Who waits to be let in",
        offered=lambda console: console.may_anywhere(Permission.NETWORK_INVITE),
        badge=lambda console: console.badge,
    ),
    Entry(
        "3",
        NetworkTopologyScreen,
        NetworkTopologyScreen.NAME,
        "The whole network as a picture",
        figures=_topology,
    ),
    Entry("4", RelaysScreen, RelaysScreen.NAME, "Relays and how they do", figures=lambda _console: Wants(relays=True)),
    Entry(
        "5",
        UsageScreen,
        UsageScreen.NAME,
        "What networks use of their plans",
        offered=lambda console: console.may_anywhere(Permission.LOGS_VIEW),
    ),
    Entry("6", PeopleScreen, PeopleScreen.NAME, "Users, members, sessions, API keys"),
    Entry(
        "7",
        NetworkLogScreen,
        NetworkLogScreen.NAME,
        "What happened in a network",
        offered=lambda console: console.may_anywhere(Permission.LOGS_VIEW),
    ),
    Entry("8", AuditScreen, AuditScreen.NAME, "Who changed what", offered=_administers),
    Entry(
        "9",
        TemplatesScreen,
        TemplatesScreen.NAME,
        "Settings of networks by a name",
        offered=lambda console: console.may_create,
    ),
)


def offered(console: Console) -> list[Entry]:
    """While nothing is known yet, all."""
    return [entry for entry in SCREENS if console.who is None or entry.offered(console)]


def tabs(console: Console) -> list[Tab]:
    return [Tab(entry.key, entry.name, entry.badge(console)) for entry in offered(console)]
