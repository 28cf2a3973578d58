"""People as lines: users and who is invited, members of a network, sessions, API keys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shadowmesh.model.accounts import ApiKey, SessionInfo, User, UserInvitation
from shadowmesh.model.api import NetworkMember
from shadowmesh_tui.console.table import Column, Order
from shadowmesh_tui.text import UNKNOWN, duration
from shadowmesh_tui.widgets.clientfacts import ago

ListName = Literal["users", "members", "sessions", "keys"]
LISTS: Sequence[ListName] = ("users", "members", "sessions", "keys")
TITLES: dict[ListName, str] = {"users": "users", "members": "members", "sessions": "sessions", "keys": "API keys"}
ORDERS: dict[ListName, Order] = {name: Order("name") for name in LISTS}


def left(at: dt.datetime | None, wall: float) -> str:
    """`in 3d`; `over` of what has ended."""
    if at is None:
        return "never"
    seconds = at.timestamp() - wall
    return "over" if seconds <= 0 else f"in {duration(seconds)}"


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user, or somebody who is invited. `required`: their role asks for a second factor, and they have none."""

    user: User | None
    invitation: UserInvitation | None
    wall: float
    required: bool = False
    network: str = ""  # of an invitation

    @property
    def key(self) -> str:
        return self.user.id if self.user is not None else self.invitation.id if self.invitation is not None else ""

    @property
    def email(self) -> str:
        if self.user is not None:
            return self.user.email
        return self.invitation.email if self.invitation is not None else ""

    @property
    def name(self) -> str:
        return self.user.name if self.user is not None else ""

    @property
    def role(self) -> str:
        if self.user is None:
            return "admin" if self.invitation is not None and self.invitation.role == "admin" else "user"
        return "service" if self.user.kind == "service" else "admin" if self.user.admin else "user"

    @property
    def state(self) -> str:
        if self.user is None:
            return "invited"
        return "disabled" if self.user.disabled else "active"

    @property
    def factor(self) -> str:
        if self.user is None or self.user.kind == "service":
            return UNKNOWN
        return "yes" if self.user.second_factor else "missing" if self.required else "no"

    @property
    def seen(self) -> str:
        return UNKNOWN if self.user is None else ago(self.user.last_seen, self.wall)

    @property
    def since(self) -> str:
        at = self.user.created_at if self.user is not None else self.invitation.created_at if self.invitation else None
        return ago(at, self.wall)

    @property
    def hay(self) -> str:
        return "\n".join((self.email, self.name, self.role, self.state, self.key))


def _seen_at(row: UserRow) -> float | None:
    return row.user.last_seen.timestamp() if row.user is not None and row.user.last_seen is not None else None


_STATE = {"active": "good", "disabled": "error", "invited": "warning"}
_FACTOR = {"yes": "good", "missing": "error"}
USERS: Sequence[Column[UserRow]] = (
    Column("name", "address", lambda r: r.email, least=18, most=64, sort=lambda r: r.email.casefold()),
    Column("called", "name", lambda r: r.name, lambda _: "muted", least=10, most=32, rank=4,
           sort=lambda r: r.name.casefold() or None),
    Column("role", "role", lambda r: r.role, lambda r: "title" if r.role == "admin" else "label", least=7, most=7,
           sort=lambda r: r.role),
    Column("state", "state", lambda r: r.state, lambda r: _STATE[r.state], least=8, most=8, sort=lambda r: r.state),
    Column("factor", "MFA", lambda r: r.factor, lambda r: _FACTOR.get(r.factor, "muted"), least=7, most=7,
           sort=lambda r: r.factor),
    Column("seen", "last seen", lambda r: r.seen, lambda _: "muted", least=10, most=10, right=True, rank=1,
           descends=True, sort=_seen_at),
    Column("since", "since", lambda r: r.since, lambda _: "muted", least=9, most=9, right=True, rank=3),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemberRow:
    member: NetworkMember

    @property
    def rights(self) -> str:
        """By a list of their own, or the role's."""
        return " ".join(self.member.effective) or "nothing"

    @property
    def hay(self) -> str:
        return "\n".join((self.member.email, self.member.role, *self.member.groups, *self.member.effective))


_RANKS = {"owner": 0, "member": 1, "guest": 2}
MEMBERS: Sequence[Column[MemberRow]] = (
    Column("name", "address", lambda r: r.member.email, least=18, most=64, sort=lambda r: r.member.email.casefold()),
    Column("role", "role", lambda r: r.member.role, lambda r: "title" if r.member.role == "owner" else "label",
           least=7, most=7, sort=lambda r: _RANKS.get(r.member.role, 3)),
    Column("by", "given", lambda r: "by a group" if not r.member.own else "own list" if r.member.permissions is not None
           else "own role", lambda _: "muted", least=10, most=10, rank=1, sort=lambda r: (r.member.own, r.member.permissions is None)),
    Column("groups", "groups", lambda r: " ".join(r.member.groups), lambda _: "muted", least=10, most=32, rank=3),
    Column("rights", "may", lambda r: r.rights, lambda _: "muted", least=20, most=110, rank=2),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SessionRow:
    session: SessionInfo
    wall: float

    @property
    def hay(self) -> str:
        return "\n".join((self.session.user, self.session.source, self.session.client, self.session.id))


SESSIONS: Sequence[Column[SessionRow]] = (
    Column("name", "who", lambda r: r.session.user, least=16, most=64, sort=lambda r: r.session.user.casefold()),
    Column("client", "with", lambda r: r.session.client or UNKNOWN, least=14, most=60, rank=1,
           sort=lambda r: r.session.client.casefold() or None),
    Column("source", "from", lambda r: r.session.source or UNKNOWN, least=10, most=39, rank=2,
           sort=lambda r: r.session.source or None),
    Column("used", "last used", lambda r: "this one" if r.session.current else ago(r.session.last_used, r.wall),
           lambda r: "good" if r.session.current else "muted", least=10, most=10, right=True, descends=True,
           sort=lambda r: r.session.last_used),
    Column("begun", "begun", lambda r: ago(r.session.created_at, r.wall), lambda _: "muted", least=9, most=9, right=True,
           rank=3, sort=lambda r: r.session.created_at),
    Column("ends", "ends", lambda r: left(r.session.expires_at, r.wall), lambda _: "muted", least=7, most=7, right=True,
           rank=4, sort=lambda r: r.session.expires_at),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeyRow:
    """`limits`: what it is for, of all that its owner may do."""

    api_key: ApiKey
    limits: str
    wall: float

    @property
    def hay(self) -> str:
        return "\n".join((self.api_key.name, self.api_key.user, self.limits, self.api_key.id))


KEYS: Sequence[Column[KeyRow]] = (
    Column("name", "key", lambda r: r.api_key.name or r.api_key.id, least=14, most=40,
           sort=lambda r: (r.api_key.name or r.api_key.id).casefold()),
    Column("owner", "whose", lambda r: r.api_key.user, least=14, most=50, rank=1,
           sort=lambda r: r.api_key.user.casefold()),
    Column("used", "last used", lambda r: ago(r.api_key.last_used, r.wall) if r.api_key.last_used else "never",
           lambda _: "muted", least=10, most=10, right=True, descends=True, sort=lambda r: r.api_key.last_used),
    Column("ends", "ends", lambda r: left(r.api_key.expires_at, r.wall),
           lambda r: "error" if left(r.api_key.expires_at, r.wall) == "over" else "muted", least=7, most=7, right=True,
           sort=lambda r: r.api_key.expires_at),
    Column("limits", "for", lambda r: r.limits or "all of theirs", lambda r: "muted" if r.limits else "warning",
           least=14, most=90, rank=2),
)  # fmt: skip
COLUMNS: dict[ListName, Sequence[Column[Any]]] = {
    "users": USERS, "members": MEMBERS, "sessions": SESSIONS, "keys": KEYS,
}  # fmt: skip


def row_key(row: Any) -> str:
    match row:
        case UserRow():
            return row.key
        case MemberRow():
            return row.member.email
        case SessionRow():
            return row.session.id
        case _:
            return str(row.api_key.id)


def key_limits(key: ApiKey, names: dict[str, str]) -> str:
    """`names`: of networks by their ids."""
    said = [", ".join(key.scopes)] if key.scopes is not None else []
    said += [f"in {', '.join(names.get(ref, ref) for ref in key.networks)}"] if key.networks is not None else []
    return " ".join([*said, "only to read"] if key.read_only else said)
