"""People: the controller's users, the members of the chosen network, sessions, API keys; and one's own second factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model import accounts, api
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.console.table import Order, in_order
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.console.factorwindow import SecondFactorWindow
from shadowmesh_tui.screens.console.factswindow import FactsWindow
from shadowmesh_tui.screens.console.fetching import Doing, FetchingScreen
from shadowmesh_tui.screens.console.peopleforms import (
    Secret,
    add_person,
    delete_user,
    give_role,
    make_key,
    with_password,
)
from shadowmesh_tui.screens.console.peoplerows import (
    COLUMNS,
    LISTS,
    ORDERS,
    TITLES,
    KeyRow,
    ListName,
    MemberRow,
    SessionRow,
    UserRow,
    key_limits,
    left,
    row_key,
)
from shadowmesh_tui.screens.dialogs import ConfirmScreen
from shadowmesh_tui.text import UNKNOWN, shorten
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import ago, figures
from shadowmesh_tui.widgets.rowtable import RowTable

_CELLS = 60  # of an address in a sentence
_NOBODY: dict[ListName, Notice] = {
    "users": Notice("There are no users.", "Press + to add one."),
    "members": Notice("Nobody has a role in this network.", "Administrators may do all in it."),
    "sessions": Notice("Nobody is signed in.", ""),
    "keys": Notice("There are no API keys.", "Press + to make one: programs sign in by them."),
}


def lists_offered(console: Console) -> list[ListName]:
    """What whoever asks may see."""
    administers = console.who is not None and console.who.administers
    return [
        name
        for name in LISTS
        if not (name == "users" and not administers)
        and not (name == "members" and (console.network is None or not console.may(
            api.Permission.NETWORK_VIEW, console.network.network_id)))
    ]  # fmt: skip


class PeopleScreen(FetchingScreen[Any]):
    NAME = "people"
    OF_NETWORKS = False
    EVERY_S = 15.0
    KEYS: ClassVar[Keys] = (
        ("← →  h l", "users, members of the network, sessions, API keys"),
        ("↑ ↓  j k", "choose a line"),
        ("Enter", "all about it"),
        ("+", "add a person, give a role, make an API key"),
        ("e", "another role"),
        ("D", "disable a user, or enable"),
        ("p", "give a new password, to be used once"),
        ("f", "take a user's second factor away"),
        ("X", "delete a user for good"),
        ("o", "the sessions of a user"),
        ("x", "revoke it, take the role, end the session"),
        ("F", "your own second factor"),
        ("/", "show only lines that contain these words"),
        ("s  S", "order by the next column, the other way round"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "list(1)", "Lists", key_display="→"),
        Binding("left,h", "list(-1)", "List before", show=False),
        Binding("plus", "add", "Add", key_display="+"),
        Binding("e", "role", "Role"),
        Binding("x", "end", "Remove"),
        Binding("D", "disable", "Disable"),
        Binding("p", "password", "New password", show=False),
        Binding("f", "reset_factor", "Reset second factor", show=False),
        Binding("X", "delete", "Delete user", show=False),
        Binding("o", "sessions", "Sessions", show=False),
        Binding("F", "my_factor", "My second factor", show=False),
        *CONSOLE_BINDINGS,
    ]

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS["users"], row_key)
        self._tables: dict[ListName, RowTable[Any]] = {name: RowTable(COLUMNS[name], row_key) for name in LISTS}
        self._list: ListName = "users"
        self._whose: str | None = None  # sessions: of this user, by address
        self._rows: dict[str, Any] = {}
        self._places: list[tuple[range, ListName]] = []
        self.table = self._tables["users"]

    def body(self) -> ComposeResult:
        yield self.head
        yield from self._tables.values()
        yield self.filter
        yield self.facts

    # which list

    @property
    def list_name(self) -> str:
        return f"people-{self._list}"

    @property
    def order(self) -> Order:
        return self.desk.looking.orders.get(self.list_name, ORDERS[self._list])

    def _turn(self, name: ListName) -> None:
        """Shows this list."""
        had_focus = self.focused is self.table
        self._list, self.columns, self.table = name, COLUMNS[name], self._tables[name]
        for other, table in self._tables.items():
            table.display = other == name
        if had_focus or self.focused is None:
            self.table.focus()
        needle = self.desk.needle(self.list_name)
        self.filter.value = needle
        self.filter.set_class(bool(needle), "-shown")

    def on_mount(self) -> None:
        super().on_mount()
        for name, table in self._tables.items():
            table.display = name == self._list

    def action_list(self, step: int) -> None:
        offered = lists_offered(self.console)
        at = offered.index(self._list) if self._list in offered else 0
        self._whose = None
        self._turn(offered[(at + step) % len(offered)])
        self._turned()

    def _turned(self) -> None:
        self.show()
        self.refresh_bindings()
        self.read()

    def on_click(self, event: events.Click) -> None:
        if event.widget is self.head:
            for place, name in self._places:
                if event.x - 1 in place:
                    self._whose = None
                    self._turn(name)
                    self._turned()

    # reading

    @property
    def what(self) -> str:
        if self._list == "members":
            network = self.console.network
            return "" if network is None else f"members {network.network_id}"
        return f"sessions {self._whose}" if self._list == "sessions" and self._whose else self._list

    def asks(self, desk: Desk) -> Callable[[ControllerClient], Any]:
        administers = desk.console.who is not None and desk.console.who.administers
        match self._list:
            case "users":
                return _read_users
            case "members":
                network = desk.console.network
                network_id = "" if network is None else network.network_id
                return lambda client: client.member_list(network_id)
            case "sessions":
                whose = self._whose
                return lambda client: client.session_list(whose)
            case _:
                return lambda client: {
                    "keys": client.api_key_list(),
                    "services": [u.email for u in client.user_list() if u.kind == "service" and not u.disabled]
                    if administers
                    else [],
                }

    # what is shown

    def show_desk(self, desk: Desk) -> None:
        offered = lists_offered(desk.console)
        if desk.console.who is not None and self._list not in offered:
            self._turn(offered[0])
        super().show_desk(desk)

    def instead(self, desk: Desk) -> Notice | None:
        return None

    def _instead_of_lines(self, desk: Desk) -> Notice | None:
        missing = super().instead(desk)
        if missing is not None:
            return missing
        if self._rows:
            return None
        if desk.needle(self.list_name):
            return Notice(f"Nothing here matches “{desk.needle(self.list_name)}”.", "Press Esc to show all.")
        notice = _NOBODY[self._list]
        return notice if self.may_change else Notice(notice.title, "")

    def rows(self, desk: Desk) -> Sequence[Any]:
        words = desk.needle(self.list_name).casefold().split()
        rows = [row for row in self._all(desk) if all(word in row.hay.casefold() for word in words)]
        return in_order(rows, self.columns, self.order, row_key)

    def _all(self, desk: Desk) -> list[Any]:
        value, wall = self.fetched(desk).value, desk.wall()
        if value is None:
            return []
        names = {n.network_id: n.name for n in desk.console.networks.values()}
        match self._list:
            case "users":
                missing = set(value["missing"])
                users = [UserRow(u, None, wall, u.email in missing) for u in value["users"]]
                return users + [
                    UserRow(None, i, wall, network=names.get(i.network or "", i.network or ""))
                    for i in value["invitations"]
                ]
            case "members":
                return [MemberRow(member) for member in value]
            case "sessions":
                return [SessionRow(session, wall) for session in value]
            case _:
                return [KeyRow(key, key_limits(key, names), wall) for key in value["keys"]]

    def show_body(self, desk: Desk) -> None:
        rows = self.rows(desk)
        self._rows = {row_key(row): row for row in rows}
        self.head.put(self._head(desk, len(rows)))
        self.show_rows(desk)
        self._show_facts(desk)

    def _head(self, desk: Desk, count: int) -> Text:
        styles, text = self.palette, Text(no_wrap=True, overflow="ellipsis")
        self._places = []
        for name in lists_offered(desk.console):
            start = text.cell_len
            text.append(f" {TITLES[name]} ", style=styles["selected" if name == self._list else "muted"])
            self._places.append((range(start, text.cell_len), name))
            text.append(" ")
        said = f" {count}"
        if self._list == "members" and desk.console.network is not None:
            said += f" in {shorten(desk.console.network.name, 40)}"
        if self._list == "sessions" and self._whose:
            said += f" of {shorten(self._whose, 40)}"
        return text.append(said, style=styles["label"])

    def _show_facts(self, desk: Desk) -> None:
        notice = self._instead_of_lines(desk)
        row = self._row()
        self.facts.display = notice is not None or (row is not None and self.size.height >= 18)
        if notice is not None:
            words = Text(notice.title, style=self.palette["error" if notice.level == "error" else "title"])
            self.facts.put(words.append(f"\n{notice.remedy}" if notice.remedy else "", style=self.palette["label"]))
        elif row is not None:
            self.facts.put(figures(_facts(row), self.palette))

    def _row(self) -> Any:
        return self._rows.get(self.table.cursor_key or "")

    def on_row_table_moved(self, _message: RowTable.Moved) -> None:
        if self.view.desk is not None:
            self._show_facts(self.desk)
            self.refresh_bindings()

    def on_row_table_opened(self, message: RowTable.Opened) -> None:
        row = self._rows.get(message.key)
        if isinstance(row, UserRow) and row.user is not None:
            email = row.user.email
            self.open(
                FactsWindow(
                    self.view,
                    shorten(email, _CELLS),
                    figures(_facts(row), self.palette),
                    lambda client: _read_person(client, email),
                    partial(_told_of_person, self.desk.wall()),
                )
            )
        elif row is not None:
            title = row.email if isinstance(row, UserRow) else TITLES[self._list]
            self.open(FactsWindow(self.view, shorten(title, _CELLS), figures(_facts(row), self.palette)))

    # what may be done

    @property
    def may_change(self) -> bool:
        """In the list that is shown."""
        who = self.console.who
        if who is None or who.read_only:
            return False
        if self._list == "members":
            return self.may(api.Permission.NETWORK_CONFIGURE)
        return self._list != "users" or who.administers

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.view.desk is None or action not in _OFFERED:
            return super().check_action(action, parameters)
        if action == "list":
            return len(lists_offered(self.console)) > 1
        if action == "my_factor":
            who = self.console.who
            return who is not None and who.user is not None and not who.read_only
        row = self._row()
        if action == "sessions":
            return isinstance(row, UserRow) and row.user is not None and row.user.kind == "person"
        return self.may_change and _may(action, self._list, row)

    def action_my_factor(self) -> None:
        self.open(SecondFactorWindow(self.view))

    def action_sessions(self) -> None:
        row = self._row()
        if isinstance(row, UserRow) and row.user is not None:
            self._whose = row.user.email
            self._turn("sessions")
            self._turned()

    def action_add(self) -> None:
        networks = self.console.networks.values()
        if self._list == "users":
            self.open(add_person(self.view, networks), self._secret_made)
        elif self._list == "keys" and self.console.who is not None:
            value = self.fetched(self.desk).value
            services = [] if value is None else value["services"]
            self.open(make_key(self.view, self.console.who, networks, services), self._secret_made)
        elif self._list == "members" and self.console.network is not None:
            self.open(give_role(self.view, self.console.network, None), self._given)

    def _secret_made(self, made: Secret | None) -> None:
        self.read()
        if made is None:
            return
        title, secret, words = made
        if secret:
            self.open(CodeWindow(title, secret, words))
        else:
            self.notify(words, title=title, markup=False, timeout=12)

    def _given(self, made: api.NetworkMember | None) -> None:
        self.read()
        if made is not None:
            self.notify(f"{made.email}: {made.role}.", markup=False)

    def action_role(self) -> None:
        row, network = self._row(), self.console.network
        if isinstance(row, MemberRow) and network is not None:
            self.open(give_role(self.view, network, row.member), self._given)
        elif isinstance(row, UserRow) and row.user is not None:
            email, admin = row.user.email, row.user.admin
            if admin:
                question = (
                    f"Make {shorten(email, _CELLS)} a user without the rights of an administrator? Invitations and relay tokens that "
                    "they made end; invites too, where their roles don't allow them."
                )
            else:
                question = f"Make {shorten(email, _CELLS)} an administrator? They may then do all on this controller."
            wish = accounts.UserPatch(admin=not admin)
            self._ask(
                question, lambda client: client.user_set(email, wish), f"{email}: {'user' if admin else 'admin'}."
            )

    def action_disable(self) -> None:
        row = self._row()
        if not isinstance(row, UserRow) or row.user is None:
            return
        email, off = row.user.email, row.user.disabled
        wish = accounts.UserPatch(disabled=not off)
        if off:
            question = f"Enable {shorten(email, _CELLS)}? They can sign in again; their API keys are good again."
        else:
            question = (
                f"Disable {shorten(email, _CELLS)}? They are signed out everywhere at once, their API keys are refused, and invites "
                "that they made end. Machines that they brought stay."
            )
        self._ask(
            question, lambda client: client.user_set(email, wish), f"{email}: {'enabled' if off else 'disabled'}."
        )

    def action_password(self) -> None:
        row = self._row()
        if isinstance(row, UserRow) and row.user is not None:
            email = row.user.email
            question = (
                f"Give {shorten(email, _CELLS)} a new password? The one of now is refused, they are signed out everywhere, and all their "
                "API keys end, with what was made with those. The new one is shown once."
            )
            self.open(ConfirmScreen(question), lambda yes: self._reset(email) if yes else None)

    def _reset(self, email: str) -> None:
        self._show_secret(lambda client: with_password(client.user_reset_password(email)))

    def _show_secret(self, function: Callable[[ControllerClient], Secret]) -> None:
        async def make() -> None:
            self._secret_made(await self.act(function))

        self.run_worker(make(), group="act")

    def action_delete(self) -> None:
        row = self._row()
        if isinstance(row, UserRow) and row.user is not None:
            others = [
                r.email
                for r in self._all(self.desk)
                if r.user is not None and r.user.kind == "person" and not r.user.disabled and r.email != row.email
            ]
            self.open(delete_user(self.view, row.email, others), self._deleted)

    def _deleted(self, found: accounts.UserDeleted | None) -> None:
        self.read()
        if found is None:
            return
        said = f"{found.email}: deleted."
        if found.given_to is not None:
            networks = ", ".join(found.networks) or "no networks"
            said += f" {found.given_to} has {shorten(networks, 80)}, and {found.clients} machines."
        self.notify(said, markup=False)

    def action_reset_factor(self) -> None:
        row = self._row()
        if isinstance(row, UserRow) and row.user is not None:
            email = row.user.email
            question = f"Take the second factor of {shorten(email, _CELLS)} away? Until they set one up, their password alone signs in."
            self._ask(question, lambda client: client.second_factor_reset(email), f"{email}: no second factor.")

    def action_end(self) -> None:
        row, network = self._row(), self.console.network
        match row:
            case UserRow(invitation=accounts.UserInvitation() as invitation):
                gone = invitation.id
                question = f"Revoke the invitation for {shorten(row.email, _CELLS)}? It can't be accepted any more."
                self._ask(question, lambda client: client.user_invitation_revoke(gone), f"{row.email}: revoked.")
            case MemberRow() if network is not None:
                email, network_id = row.member.email, network.network_id
                question = (
                    f"Take the role of {shorten(email, _CELLS)} in {shorten(network.name, 40)}? They don't see it any more, and invites that "
                    "they made end. Machines that they brought stay."
                )
                self._ask(
                    question, lambda client: client.member_remove(network_id, email), f"{email}: no role any more."
                )
            case SessionRow():
                session = row.session
                here = " It is the one of this window: you sign in again." if session.current else ""
                question = f"End this session of {shorten(session.user, _CELLS)}? It is signed out at once.{here}"
                self._ask(question, lambda client: client.session_end(session.id), "The session is ended.")
            case KeyRow():
                key = row.api_key
                name = key.name or key.id
                question = (
                    f"Revoke the API key {shorten(name, 40)} of {shorten(key.user, 40)}? Whatever signs in by it is refused at once, and what was made "
                    "with it ends: keys, invites, relay tokens, webhooks."
                )
                self._ask(question, lambda client: client.api_key_revoke(key.id), f"{name}: revoked.")
            case _:
                pass

    def _ask(self, question: str, function: Doing, done: str) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.do(function, done=done)

        self.open(ConfirmScreen(question), answered)


_OFFERED = frozenset(
    {"list", "my_factor", "sessions", "add", "role", "end", "disable", "password", "reset_factor", "delete"}
)


def _may(action: str, shown: ListName, row: Any) -> bool:
    """Whether it means something for this line."""
    user = row.user if isinstance(row, UserRow) else None
    person = user is not None and user.kind == "person"
    match action:
        case "add":
            return shown != "sessions"
        case "role":
            return person or (isinstance(row, MemberRow) and row.member.own)
        case "disable" | "delete":
            return user is not None
        case "password":
            return person
        case "reset_factor":
            return user is not None and user.second_factor
        case _:
            if isinstance(row, UserRow):
                return row.invitation is not None
            return row is not None and (not isinstance(row, MemberRow) or row.member.own)


def _read_users(client: ControllerClient) -> dict[str, Any]:
    return {
        "users": client.user_list(),
        "invitations": client.user_invitations(),
        "missing": client.settings_show().mfa_missing,
    }


def _read_person(client: ControllerClient, email: str) -> dict[str, Any]:
    """What there is of them beside themselves; roles only of this controller's own people."""
    try:
        networks: Any = client.policy_document(email).networks
    except ShadowMeshError as e:
        if e.kind is Kind.UNREACHABLE:
            raise
        networks = {}
    return {
        "networks": networks,
        "groups": [g for g in client.group_list() if email in g.users],
        "sessions": client.session_list(email),
        "keys": [k for k in client.api_key_list() if k.user == email],
    }


def _told_of_person(wall: float, found: dict[str, Any], styles: Palette) -> Text:
    text = Text()

    def part(title: str, lines: Sequence[tuple[str, str]]) -> None:
        text.append(f"{title}\n", style=styles["title"])
        for name, said in lines:
            text.append(f"  {shorten(name, 40)}", style=styles["label"]).append(f"  {said}\n", style=styles["muted"])
        text.append("" if lines else "  none\n", style=styles["muted"])

    part("roles of their own", [(n, _policy(p)) for n, p in found["networks"].items()])
    part("groups", [(g.name, ", ".join(f"{r.role} in {r.network_name}" for r in g.networks)) for g in found["groups"]])
    part(
        "sessions",
        [
            (s.client or s.id, f"from {s.source or UNKNOWN}, last used {ago(s.last_used, wall)}")
            for s in found["sessions"]
        ],
    )
    part("API keys", [(k.name or k.id, f"last used {ago(k.last_used, wall)}, ends {left(k.expires_at, wall)}") for k in found["keys"]])  # fmt: skip
    text.right_crop(1)
    return text


def _policy(given: accounts.PolicyRole) -> str:
    return given.role if given.permissions is None else f"{given.role}, only {' '.join(given.permissions) or 'nothing'}"


def _facts(row: Any) -> list[tuple[str, str]]:
    match row:
        case UserRow(user=accounts.User() as user):
            said = f"{row.role}, {row.state}; second factor {row.factor}"
            return [
                ("user", f"{user.email}  {user.name}"),
                ("", said),
                ("seen", f"{row.seen}; since {user.created_at.astimezone():%Y-%m-%d}; {user.id}"),
            ]
        case UserRow(invitation=accounts.UserInvitation() as invitation):
            where = f", {invitation.network_role} in {row.network}" if invitation.network else ""
            return [
                ("invited", invitation.email),
                ("as", f"{row.role}{where}"),
                ("by", f"{invitation.created_by}, ends {left(invitation.expires_at, row.wall)}; {invitation.id}"),
            ]
        case MemberRow():
            by = f"; by groups {', '.join(row.member.groups)}" if row.member.groups else ""
            return [("member", row.member.email), ("role", f"{row.member.role}{by}"), ("may", row.rights)]
        case SessionRow():
            session = row.session
            return [
                ("session", f"{session.user}  {session.id}"),
                ("with", session.client or UNKNOWN),
                ("from", f"{session.source or UNKNOWN}, begun {session.created_at.astimezone():%Y-%m-%d %H:%M}, ends {left(session.expires_at, row.wall)}"),
            ]  # fmt: skip
        case _:
            key = row.api_key
            return [
                ("API key", f"{key.name}  {key.id}"),
                (
                    "of",
                    f"{key.user}, made {key.created_at.astimezone():%Y-%m-%d}, ends {left(key.expires_at, row.wall)}",
                ),
                ("for", row.limits or "all that its owner may do"),
            ]
