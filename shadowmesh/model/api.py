"""The shapes of the REST API under `/api/v1`: what requests carry and what answers say.

Shared by the controller's edge (which checks requests by them) and `client_api.rest` (which returns them). Times are
RFC 3339 in UTC. What newer versions add is ignored in answers and refused in requests.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from shadowmesh.model.addresses import IPV4, LAST_PORT, NO_OVERLAY
from shadowmesh.model.ids import ID_PREFIXES
from shadowmesh.model.keys import SealingPublicKey, WireGuardPublicKey
from shadowmesh.model.pump import INNER_MTU
from shadowmesh.model.text import MAILBOX, canonical_email, is_mailbox, is_safe, is_visible, safe_pattern

T = TypeVar("T")
S = TypeVar("S", bound=str)

API = "/api/v1"
MAX_SECONDS = 10 * 366 * 86400


Role = Literal["owner", "member", "guest"]
ClientState = Literal["approved", "pending"]
ClientStatus = Literal["online", "offline", "connecting"]
NatType = Literal["none", "full_cone", "restricted", "port_restricted", "symmetric", "udp_blocked"]
ConnectionType = Literal["p2p", "relay", "hybrid"]
Reporting = Literal["off", "health", "full"]  # what devices tell of their connections: nothing, how they are, bytes too


class Permission(StrEnum):
    NETWORK_CREATE = "network.create"
    NETWORK_DELETE = "network.delete"
    NETWORK_CONFIGURE = "network.configure"
    NETWORK_INVITE = "network.invite"
    NETWORK_VIEW = "network.view"
    CLIENT_REGISTER = "client.register"
    CLIENT_REMOVE = "client.remove"
    LOGS_VIEW = "logs.view"


def _safe(text: str) -> str:
    if not is_safe(text):
        raise ValueError("has control or invisible characters in it")
    return text


def _seen(text: str) -> str:
    if not is_visible(text):
        raise ValueError("has nothing in it that can be seen")
    return text


def _mailbox(text: str) -> str:
    if not is_mailbox(text):
        raise ValueError("is no plain address that can be mailed to")
    return text


def _number(value: object) -> object:
    """JSON's numbers only, as the description says: 5.0 is an integer there, "5" and true are none."""
    if isinstance(value, str | bool):
        raise ValueError("is no number")
    return value


def _unique(values: list[S]) -> list[S]:
    return sorted(set(values))


class _Described:
    """More on a text in the API's description than pydantic says; found out when somebody asks for that."""

    def __init__(self, more: Callable[[], dict[str, str]]) -> None:
        self._more = more

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core) | self._more()


def described(pattern: str, description: str = "") -> _Described:
    return _Described(lambda: {"pattern": pattern} | ({"description": description} if description else {}))


_SAFE = _Described(lambda: {"pattern": safe_pattern()})
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_LIKE_ID = "(?:" + "|".join("".join(f"[{c}{c.upper()}]" for c in prefix) for prefix in ID_PREFIXES) + ")_"

Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_safe), _SAFE]
Subnet = Annotated[
    Text,
    described(
        rf"^{IPV4}/(?:[89]|[12][0-9]|30)$",
        f"An IPv4 network as 10.42.0.0/24, its host bits zero; it may not overlap {', '.join(map(str, NO_OVERLAY))}.",
    ),
]
Subnet6 = Annotated[
    Text,
    described(r"^f[cd][0-9a-f]{2}(?::(?:0|[1-9a-f][0-9a-f]{0,3})){0,3}::/64$", "An IPv6 network of RFC 4193, a /64."),
]
NetworkName = Annotated[
    str,
    StringConstraints(pattern=f"^{_NAME}"),
    described(f"^(?!{_LIKE_ID}){_NAME}", "None that looks like an id."),
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
Mailbox = Annotated[
    Email,
    AfterValidator(_mailbox),
    _Described(lambda: {"pattern": f"^(?={safe_pattern()[1:]})(?=[^@]{{1,64}}@.{{1,255}}$){MAILBOX}$"}),
]
WireGuardKey = Annotated[
    str, StringConstraints(pattern=WireGuardPublicKey.pattern()), Field(description="WireGuard's public key, base64")
]
SealingKey = Annotated[
    str, StringConstraints(pattern=SealingPublicKey.pattern()), Field(description="Of HPKE, 1216 bytes, base64")
]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_number)]
Flag = Annotated[bool, Field(strict=True)]  # true or false: 0, "no" and "off" are refused, as the description says


class Request(BaseModel):
    """Base of what is sent: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of what comes back: fields that a newer controller added are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _example(**fields: Any) -> ConfigDict:
    """For the API's description."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Listing(Answer, Generic[T]):
    """One page of a list; `next` is the cursor of the following one, None at the end."""

    next: str | None = None

    @property
    def listed(self) -> list[T]:
        raise NotImplementedError


class Page(Listing[T], Generic[T]):
    items: list[T]

    @property
    def listed(self) -> list[T]:
        return self.items


class ApplyTake(Request):
    """`turn`: one's own, which goes on."""

    turn: Annotated[str, StringConstraints(pattern=r"^apl_[A-Za-z0-9]{1,60}$")] | None = None


class ApplyTurn(Answer):
    """For so many `seconds` nobody else applies a file."""

    turn: str  # apl_…
    seconds: int


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
    model_config = _example(
        name="acme-prod",
        subnet="10.100.1.0/24",
        description="Production environment",
        p2p_enabled=True,
        relay_fallback=True,
    )

    name: NetworkName
    subnet: Subnet | None = None  # None: the next free /24 of the controller's `default_subnet`
    subnet6: Subnet6 | None = None
    description: Text = ""
    approval: Flag = False
    code_approval: Flag = True  # who joins by the short code waits for approval
    max_clients: Count = 100
    p2p_enabled: Flag = True
    relay_fallback: Flag = True
    reports: Reporting = "health"
    relay: RelayName | None = None
    sealing_key: SealingKey | None = None  # to which the answer's `encryption_key` is sealed
    template: NetworkName | None = None  # says what this request doesn't


class NetworkSettings(Request):
    """What is set of a network, as far as it is said here."""

    description: Text | None = None
    approval: Flag | None = None
    code_approval: Flag | None = None
    max_clients: Count | None = None
    p2p_enabled: Flag | None = None
    relay_fallback: Flag | None = None
    reports: Reporting | None = None


class NetworkPatch(NetworkSettings):
    """What is absent stays as it is. `relay`: an empty string means any relay again."""

    name: NetworkName | None = None
    subnet: Subnet | None = None
    relay: RelayName | Literal[""] | None = None


class Epoch(Answer):
    epoch: int
    current_from: datetime
    ends: datetime | None = None


class Network(Answer):
    network_id: str  # net_…
    name: str
    wire_id: str  # base64: what the network is called on the wire, the SHA-256 of its first key
    description: str
    subnet: str
    subnet6: str | None = None
    approval: bool
    code_approval: bool
    max_clients: int
    p2p_enabled: bool
    relay_fallback: bool
    reports: Reporting = "off"
    relay: str | None = None
    created_at: datetime
    serial: int
    epoch: int
    epochs: list[Epoch] = []
    clients: int
    pending: int
    clients_online: int
    rotation_due: datetime | None = None
    permissions: list[Permission] = []  # what who asks may do there, by what they showed
    warnings: list[str] = []  # of what was just made or changed: sentences for people


class SealedNetworkKey(Answer):
    """A network key, sealed to the sealing key of who asked (HPKE, base64): nobody on the way can read it."""

    sealed: str
    epoch: int


class NetworkCreated(Network):
    """`invitation_code`: who joins by it waits for approval, unless the network's `code_approval` is off.

    `encryption_key`: None where the request had no `sealing_key`; `network_key_reason` says so then.
    """

    invitation_code: str
    encryption_key: SealedNetworkKey | None = None
    network_key_reason: Literal["no_sealing_key"] | None = None


class NetworkList(Listing[Network]):
    networks: list[Network]

    @property
    def listed(self) -> list[Network]:
        return self.networks


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
    standing: bool = False  # made with the network: its code is the network's own


class InvitationCode(Answer):
    """A network's own, for machines that are let in by hand. `approval`: whoever comes by it waits for somebody's approval."""

    invite_id: str  # inv_…
    network: str
    invitation_code: str
    state: Literal["open", "used", "expired", "revoked"]
    expires_at: datetime
    created_at: datetime
    created_by: str
    approval: bool


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
    """`status`: connecting is a device that is connected and isn't let in yet, as it waits for approval.

    `connection_type`, `latency_ms` and `nat_type` are what the client's daemon reported of its active peers and its network;
    None: nothing. `rx_rate` and `tx_rate` are bytes per second over its last half minute, where the network has them
    reported (`reports: full`).
    """

    client_id: str  # cli_…
    network_id: str  # net_…
    network_name: str
    name: str
    ip: str
    state: ClientState
    status: ClientStatus
    connection_type: ConnectionType | None = None
    latency_ms: float | None = None
    rx_rate: float | None = None
    tx_rate: float | None = None
    nat_type: str | None = None
    tags: list[str] = []
    public_key: str  # WireGuard's
    device: str = ""  # dev_…: the machine, over all its networks
    device_key: str | None = None
    plain_wireguard: bool = False  # it has no daemon: whoever let it in vouched for its key
    owner: str | None = None
    invite: str | None = None
    created_at: datetime
    approved_at: datetime | None = None
    last_seen: datetime | None = None
    relay: str | None = None  # the home relay's name
    endpoints: list[str] = []  # empty for who may not have clients of their own there
    expires_at: datetime | None = None  # one that was registered has to have proved its key by then
    version: str = ""
    epoch: int | None = None  # the newest epoch it has confirmed to hold


class NatCapability(Request):
    """Where a client is reached from outside, as a STUN server told it."""

    public_ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    public_port: Annotated[int, Field(ge=1, le=LAST_PORT), BeforeValidator(_number)]
    nat_type: NatType


class ClientRegister(Request):
    """`invitation_code` may be left out by who holds `client.register`. `public_key`: WireGuard's, base64.

    The client waits, and is in nobody's map, until it has proved that it has the private half: by `POST /enroll`, with
    the same WireGuard key and the code, or the answer's `invite`.
    """

    model_config = _example(
        client_name="server-1",
        invitation_code="regen45-prod-k3fj92",
        public_key="3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        nat_capability={"public_ip": "203.0.113.45", "public_port": 51820, "nat_type": "port_restricted"},
    )

    client_name: ClientName
    invitation_code: Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = None
    public_key: WireGuardKey
    nat_capability: NatCapability | None = None
    sealing_key: SealingKey | None = None  # to which the answer's `network_key` is sealed


class ClientRegistered(Answer):
    """`network_key_reason` says why `network_key` is None; who waits for approval gets no key before.

    `invite`: for who was registered without a code. `relay_server`: None where there is no relay.
    """

    client_id: str
    network_id: str
    assigned_ip: str
    network_key: SealedNetworkKey | None = None
    network_key_reason: Literal["no_sealing_key", "waits_for_approval"] | None = None
    relay_server: str | None = None
    state: Literal["pending"] = "pending"
    expires_at: datetime  # until then the key has to be proved
    invite: str | None = None


class PeerEndpoint(Answer):
    """`address` is shown to who may have clients of their own there; `nat_type` as far as it is known."""

    type: Literal["direct", "relay"]
    address: str | None = None
    nat_type: NatType | None = None


class Peer(Answer):
    """A member of the map, for who wants to connect to it."""

    peer_id: str  # cli_…
    name: str
    ip: str
    public_key: str  # WireGuard's
    endpoints: list[PeerEndpoint]


class PlainPeer(Answer):
    """A member, as a plain WireGuard device is configured for it. Without endpoints it can't be reached from there."""

    client_id: str
    name: str
    public_key: str
    preshared_key: str  # of this pair, in `epoch`: a secret
    allowed_ips: list[str]
    endpoints: list[str]


class PlainConfiguration(Answer):
    """What a plain WireGuard device is told, but for its private key. After the network's key has rotated its preshared keys
    are good for 7 days more, at most."""

    client_id: str
    name: str
    network_id: str
    network_name: str
    address: str
    public_key: str
    epoch: int
    mtu: int = INNER_MTU
    persistent_keepalive: int = 25
    peers: list[PlainPeer]


class ClientList(Listing[Client]):
    clients: list[Client]

    @property
    def listed(self) -> list[Client]:
        return self.clients


# devices: one machine over all its networks


class DeviceMembership(Answer):
    network_id: str  # net_…
    network_name: str
    client_id: str  # cli_…
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


NetworkWord = Annotated[str, StringConstraints(max_length=100, pattern=r"^[\x21-\x7e]+$")]  # a name or an id


class RelayTokenCreate(Request):
    """`networks`: ids or names; the relays that register with it are for these alone."""

    expires_in: Seconds = 24 * 3600
    uses: Count = 1
    networks: Annotated[list[NetworkWord], Field(min_length=1, max_length=100)] | None = None


class RelayToken(Answer):
    """One with which relays may register still."""

    id: str  # rtk_…
    uses_left: int
    networks: list[str] | None = None  # net_…; None: all
    created_at: datetime
    created_by: str
    expires_at: datetime


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


# nodes


class ControllerStatus(Answer):
    """Of the node that is asked: how many devices and relays are linked to it; `local`: it was asked at its own socket; `max_body`:
    bytes that a request of who is signed in may have."""

    version: str
    devices: int
    relays: int
    local: bool
    max_body: int


class ControllerNode(Answer):
    """One of the controllers on a database."""

    node_id: str  # nod_…, of one start of its process
    name: str  # of its host
    urls: list[str]
    version: str
    started_at: datetime
    last_seen: datetime
    links: int  # of devices
    relays: int
    draining: bool
    here: bool  # whether it is the one that answers


# members


def _of_a_network(value: Permission) -> Permission:
    if value is Permission.NETWORK_CREATE:
        raise ValueError("is of no network: administrators have it")
    return value


NetworkPermission = Annotated[
    Permission,
    AfterValidator(_of_a_network),
    WithJsonSchema({"type": "string", "enum": [p for p in Permission if p is not Permission.NETWORK_CREATE]}),
]
Permissions = Annotated[list[NetworkPermission], Field(max_length=50), AfterValidator(_unique)]


class GivenRole(Request):
    """A role in a network. `permissions`: a list in the place of the role's own, wider or narrower; null: the role's."""

    role: Role
    permissions: Permissions | None = None


class MemberPut(GivenRole):
    """`permissions`: what they may do, whatever the role and their groups give; null: all that these give."""

    email: Email


class NetworkMember(Answer):
    """`role` and `permissions` as they were given; `effective`: what they may do, by all that they have."""

    user: str | None = None  # usr_…, for administrators: None if nobody has this address yet
    email: str
    role: Role
    permissions: list[Permission] | None = None
    effective: list[Permission] = []
    groups: list[str] = []  # by which they have a role, too
    own: bool = True  # they have a role of their own; else `role` is that of a group


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
    client_id: str | None = None  # cli_…, of whom it tells
    data: dict[str, Any] = {}
