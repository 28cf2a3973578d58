"""The shapes of the REST API under `/api/v1`: what requests carry and what answers say.

Shared by the controller's edge (which checks requests by them) and `client_api.rest` (which returns them). Times are
RFC 3339 in UTC. What newer versions add is ignored in answers and refused in requests.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from shadowmesh.model.addresses import IPV4, NO_OVERLAY
from shadowmesh.model.ids import ID_PREFIXES
from shadowmesh.model.text import canonical_email, is_safe, is_visible, safe_pattern

T = TypeVar("T")

API = "/api/v1"
MAX_SECONDS = 10 * 366 * 86400

Role = Literal["owner", "member", "guest"]
ClientState = Literal["approved", "pending"]


def _safe(text: str) -> str:
    if not is_safe(text):
        raise ValueError("has control or invisible characters in it")
    return text


def _seen(text: str) -> str:
    if not is_visible(text):
        raise ValueError("has nothing in it that can be seen")
    return text


def _encodable(text: str) -> str:
    """A lone surrogate is no character: JSON can hold one, UTF-8 can't."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("is no Unicode text")
    return text


def _number(value: object) -> object:
    """JSON's numbers only, as the description says: 5.0 is an integer there, "5" and true are none."""
    if isinstance(value, str | bool):
        raise ValueError("is no number")
    return value


def _unique(values: list[str]) -> list[str]:
    return sorted(set(values))


class _Described:
    """More on a text in the API's description than pydantic says; found out when somebody asks for that."""

    def __init__(self, more: Callable[[], dict[str, str]]) -> None:
        self._more = more

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core) | self._more()


def _pattern(pattern: str, description: str = "") -> _Described:
    return _Described(lambda: {"pattern": pattern} | ({"description": description} if description else {}))


_SAFE = _Described(lambda: {"pattern": safe_pattern()})
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_LIKE_ID = "(?:" + "|".join("".join(f"[{c}{c.upper()}]" for c in prefix) for prefix in ID_PREFIXES) + ")_"

Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_safe), _SAFE]
Subnet = Annotated[
    Text,
    _pattern(
        rf"^{IPV4}/(?:[89]|[12][0-9]|30)$",
        f"An IPv4 network as 10.42.0.0/24, its host bits zero; it may not overlap {', '.join(map(str, NO_OVERLAY))}.",
    ),
]
Subnet6 = Annotated[
    Text,
    _pattern(r"^f[cd][0-9a-f]{2}(?::(?:0|[1-9a-f][0-9a-f]{0,3})){0,3}::/64$", "An IPv6 network of RFC 4193, a /64."),
]
NetworkName = Annotated[
    str,
    StringConstraints(pattern=f"^{_NAME}"),
    _pattern(f"^(?!{_LIKE_ID}){_NAME}", "None that looks like an id."),
]
ClientName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
RelayName = Annotated[str, StringConstraints(pattern=f"^{_NAME}")]
KeyName = Annotated[
    str,
    StringConstraints(max_length=100),
    AfterValidator(_safe),
    AfterValidator(_seen),
    _Described(lambda: {"pattern": safe_pattern(visible=True), "description": "Something of it can be seen."}),
]
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9:._-]{0,62}$")]
Tags = Annotated[list[Tag], Field(max_length=32), AfterValidator(_unique)]
Email = Annotated[
    str,
    StringConstraints(pattern=r"^[^@\s]{1,64}@[^@\s]{1,255}$"),
    AfterValidator(_safe),
    AfterValidator(canonical_email),
    _Described(lambda: {"pattern": f"^(?={safe_pattern()[1:]})[^@\\s]{{1,64}}@[^@\\s]{{1,255}}$"}),
]
Password = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_encodable)]
NewPassword = Annotated[str, StringConstraints(min_length=10, max_length=200), AfterValidator(_encodable)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_number)]
Flag = Annotated[bool, Field(strict=True)]  # true or false: 0, "no" and "off" are refused, as the description says


class Request(BaseModel):
    """Base of what is sent: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of what comes back: fields that a newer controller added are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Page(Answer, Generic[T]):
    """One page of a list; `next` is the cursor of the following one, None at the end."""

    items: list[T]
    next: str | None = None


class Problem(Answer):
    """An RFC 9457 problem document. `code` is stable; `exit_code` is what the command line ends with."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    remedy: str = ""
    errors: list[str] = []


# networks


class NetworkCreate(Request):
    name: NetworkName
    subnet: Subnet | None = None  # None: the next free /24 of the controller's `default_subnet`
    subnet6: Subnet6 | None = None
    description: Text = ""
    approval: Flag = False
    code_approval: Flag = True  # who joins by the short code waits for approval
    max_clients: Count = 100
    p2p: Flag = True
    relay_fallback: Flag = True
    relay: RelayName | None = None


class NetworkPatch(Request):
    """What is absent stays as it is. `relay`: an empty string means any relay again."""

    name: NetworkName | None = None
    subnet: Subnet | None = None
    description: Text | None = None
    approval: Flag | None = None
    code_approval: Flag | None = None
    max_clients: Count | None = None
    p2p: Flag | None = None
    relay_fallback: Flag | None = None
    relay: RelayName | Literal[""] | None = None


class Epoch(Answer):
    epoch: int
    current_from: datetime
    ends: datetime | None = None


class Network(Answer):
    id: str  # net_…
    name: str
    network_id: str  # base64: the cryptographic id
    description: str
    subnet: str
    subnet6: str | None = None
    approval: bool
    code_approval: bool
    max_clients: int
    p2p: bool
    relay_fallback: bool
    relay: str | None = None
    created_at: datetime
    serial: int
    epoch: int
    epochs: list[Epoch] = []
    clients: int
    pending: int
    online: int
    rotation_due: datetime | None = None
    warnings: list[str] = []  # of what was just made or changed: sentences for people


# invites


class InviteCreate(Request):
    uses: Count = 1
    expires_in: Seconds = 24 * 3600
    client_name: ClientName | None = None
    ip: ipaddress.IPv4Address | None = None
    tags: Tags = []
    ephemeral: Flag = False
    idle: Seconds = 3600  # an ephemeral client that was away for so long is removed


class Invite(Answer):
    id: str  # inv_…
    network: str
    uses: int
    uses_left: int
    state: Literal["open", "used", "expired", "revoked"]
    expires_at: datetime
    created_at: datetime
    created_by: str
    client_name: str | None = None
    ip: str | None = None
    tags: list[str] = []
    ephemeral: bool = False


class InviteCreated(Invite):
    """The only answer that has the invite itself; it can't be shown again."""

    invite: str
    code: str


# clients


class ClientPatch(Request):
    name: ClientName | None = None
    ip: ipaddress.IPv4Address | None = None
    tags: Tags | None = None


class Client(Answer):
    id: str  # cli_…
    network: str
    network_name: str
    name: str
    ip: str
    state: ClientState
    online: bool
    tags: list[str] = []
    wg_key: str
    device: str = ""  # dev_…: the machine, over all its networks
    device_key: str
    owner: str | None = None
    invite: str | None = None
    created_at: datetime
    approved_at: datetime | None = None
    last_seen: datetime | None = None
    relay: str | None = None  # the home relay's name
    endpoints: list[str] = []
    version: str = ""
    epoch: int | None = None  # the newest epoch it has confirmed to hold


# devices: one machine over all its networks


class DeviceMembership(Answer):
    network: str  # net_…
    network_name: str
    client: str  # cli_…
    name: str
    ip: str
    state: ClientState
    online: bool


class Device(Answer):
    """`networks` are those in which who asks may remove its client."""

    id: str  # dev_…
    name: str  # in the network that it joined first
    key: str
    version: str = ""
    online: bool
    last_seen: datetime | None = None
    networks: list[DeviceMembership]


# relays


RELAY_CALLS = ("register", "tokens")  # `/relays/…` that are no relay's: none is called so


class RelayTokenCreate(Request):
    expires_in: Seconds = 24 * 3600
    uses: Count = 1


class RelayTokenCreated(Answer):
    id: str
    token: str
    expires_at: datetime


class RelayLoad(Answer):
    at: datetime
    sessions: int
    networks: int
    forwarded_frames: int
    forwarded_bytes: int
    dropped_frames: int
    cpu: float
    overloaded: bool


class Relay(Answer):
    id: str  # rly_…
    name: str
    key: str
    url: str | None = None
    udp: str | None = None
    region: str = ""
    capacity_mbit: int | None = None
    version: str = ""
    draining: bool
    online: bool
    created_at: datetime
    last_seen: datetime | None = None
    load: RelayLoad | None = None
    warnings: list[str] = []  # of what was just changed: sentences for people


# people and their keys


class Login(Request):
    """`new_password` is required where the old one was given out to be used once. `device_token`: what the last login on this device gave."""

    email: Email
    password: Password
    device_token: Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")] | None = None
    new_password: NewPassword | None = None


class Refresh(Request):
    refresh_token: Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]*$")]


class Session(Answer):
    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a label of RFC 6750
    expires_in: int
    refresh_token: str
    user: str
    device_token: str | None = None  # of a login: shown at the next one, it is tried whatever others tried meanwhile


class ApiKeyCreate(Request):
    name: KeyName | None = None  # None: it goes by its id
    expires_in: Seconds | None = None


class ApiKey(Answer):
    id: str  # key_…
    name: str
    user: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used: datetime | None = None


class ApiKeyCreated(ApiKey):
    key: str  # sk_…, shown once


class UserCreate(Request):
    email: Email
    admin: Flag = False


class UserPatch(Request):
    disabled: Flag | None = None
    admin: Flag | None = None


class User(Answer):
    id: str  # usr_…
    email: str
    admin: bool
    disabled: bool
    created_at: datetime


class UserCreated(User):
    password: str  # to be used once


class MemberPut(Request):
    email: Email
    role: Role


class NetworkMember(Answer):
    user: str | None = None  # usr_…, for administrators: None if nobody has this address yet
    email: str
    role: Role


class WhoAmI(Answer):
    name: str
    user: str | None = None
    admin: bool
    controller_urls: list[str]
    version: str


# the audit log and events


class AuditEntry(Answer):
    seq: int
    at: datetime
    actor: str
    action: str
    target: str
    detail: dict[str, Any] = {}
    hash: str


AuditFault = Literal["changed", "missing"]


class AuditVerdict(Answer):
    """`entries` follow from each other, `head` is the last one's hash.

    `broken_at` is the first wrong entry: `changed` (or replaced, restamped, taken out), or `missing`: it was cut off, by
    what the log's own end or a witness says. Asked are clients connected to this controller, not those of its other
    nodes: of `asked` clients `witnesses` answered; the newest entry that they vouch for is `vouched_for`.
    """

    entries: int
    ok: bool
    broken_at: int | None = None
    fault: AuditFault | None = None
    head: str
    asked: int = 0
    witnesses: int = 0
    vouched_for: int | None = None


class Event(Answer):
    """One event of the WebSocket `/api/v1/ws`."""

    seq: int
    at: datetime
    type: str
    network_id: str | None = None  # net_…
    data: dict[str, Any] = {}
