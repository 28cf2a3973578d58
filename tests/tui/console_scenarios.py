"""What a controller might say: plausible networks and clients, the same at each run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from shadowmesh.model.accounts import ApiKey, SessionInfo, User, UserInvitation, WhoAmI
from shadowmesh.model.api import AuditEntry, Client, Event, Network, NetworkMember, Permission, Relay
from shadowmesh.model.clock import Now
from shadowmesh.model.connectivity import ConnectionLog
from shadowmesh.model.templates import BUILT_IN, Template, TemplateSettings
from shadowmesh_tui.app import ShadowMeshApp
from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.follower import Pace
from shadowmesh_tui.console.state import Console

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
ALL = list(Permission)
WIDE = "界" * 32 + "名" * 32  # 64 wide characters: a newer controller may allow what this one doesn't
KEY = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="


def who(name: str = "anna@example.org", *, admin: bool = True, **more: Any) -> WhoAmI:
    return WhoAmI(
        name=name, user="usr_anna", admin=admin, administers=admin, permissions=ALL if admin else [],
        controller_urls=["https://vpn.example.org:8443"], version="0.3.0", **more,
    )  # fmt: skip


def network(n: int, name: str, may: list[Permission] = ALL, **more: Any) -> Network:
    values = {
        "network_id": f"net_{n:04}", "name": name, "wire_id": "AAAA", "description": "", "subnet": f"10.100.{n}.0/24",
        "approval": False, "code_approval": True, "max_clients": 100, "p2p_enabled": True, "relay_fallback": True,
        "reports": "full", "created_at": NOW, "serial": 7, "epoch": 2, "clients": 0, "pending": 0, "clients_online": 0,
        "permissions": may,
    }  # fmt: skip
    return Network.model_validate(values | more)


def client(n: int, name: str, network_id: str = "net_0001", network_name: str = "acme-prod", **more: Any) -> Client:
    values = {
        "client_id": f"cli_{n:04}", "network_id": network_id, "network_name": network_name, "name": name,
        "ip": f"10.100.{n // 250 + 1}.{n % 250 + 1}", "state": "approved", "status": "online", "public_key": KEY,
        "device": f"dev_{n:04}", "invite": "inv_0001", "created_at": NOW - dt.timedelta(days=3, minutes=n),
        "last_seen": NOW - dt.timedelta(minutes=n), "nat_type": "port_restricted", "relay": "eu-1", "version": "0.3.0",
        "epoch": 2,
    }  # fmt: skip
    return Client.model_validate(values | more)


def servers() -> list[Client]:
    return [
        client(1, "server-1", connection_type="p2p", latency_ms=2.1, tx_rate=150e6, rx_rate=31e6, tags=["prod"]),
        client(2, "server-2", connection_type="p2p", latency_ms=3.4, tx_rate=100e6, rx_rate=2.2e6, tags=["prod"]),
        client(
            3, "laptop-3", connection_type="relay", latency_ms=12.0, tx_rate=6.2e6, rx_rate=90e3, nat_type="symmetric"
        ),
        client(4, "vpn-gw", connection_type="hybrid", latency_ms=1.0, tx_rate=312e6, rx_rate=305e6, nat_type="none"),
        client(5, WIDE, connection_type="p2p", latency_ms=140.0, tx_rate=0.0, rx_rate=0.0),
        client(6, "printer", status="offline", nat_type=None, relay=None, latency_ms=None),
        client(7, "fresh", state="pending", status="connecting", nat_type=None, relay=None, version="0.3.1"),
    ]


def office(may: list[Permission] = ALL) -> Console:
    """Four networks, the first with clients of all kinds; three who wait."""
    console = Console()
    relay = Relay(id="rly_1", name="eu-1", key="AAAA", draining=False, online=True, created_at=NOW)
    networks = [
        network(1, "acme-prod", may, description="Production environment", clients=6, clients_online=5, pending=1),
        network(2, "acme-dev", may, clients=2, clients_online=2, approval=True, pending=2),
        network(3, WIDE, may, clients=100, clients_online=3),
        network(4, "quiet", may, relay_fallback=False, p2p_enabled=False),
    ]
    admin = Permission.NETWORK_CREATE in may
    console.take_all(
        who(admin=admin, name="anna@example.org" if admin else "guest@example.org"), networks, [relay], 0.0
    )
    for step in range(40):
        wave = [c.model_copy(update=_moved(c, step)) for c in servers()]
        console.take_clients("net_0001", wave, step * 5.0)
    waiting = [
        client(21, "laptop-anna", "net_0002", "acme-dev", state="pending", status="connecting"),
        client(
            22, WIDE, "net_0002", "acme-dev", state="pending", status="offline", expires_at=NOW + dt.timedelta(hours=1)
        ),
    ]
    console.take_waiting("net_0002", waiting)
    console.choose("net_0001")
    console.remember(
        Event(seq=i, at=NOW - dt.timedelta(minutes=30 - i), type=kind, network_id="net_0001", client_id=f"cli_{i:04}")
        for i, kind in enumerate(("client_online", "connection_upgrade", "client_pending", "client_offline"), 1)
    )
    return console


def _moved(c: Client, step: int) -> dict[str, Any]:
    factor = 1 + (step % 7) / 7
    return {name: None if (v := getattr(c, name)) is None else v * factor for name in ("rx_rate", "tx_rate")}


def crowd(count: int) -> Console:
    console = Console()
    console.take_all(who(), [network(1, "acme-prod", max_clients=10_000)], [], 0.0)
    kinds = ("p2p", "relay", "hybrid", None)
    console.take_clients(
        "net_0001",
        [
            client(n, f"host-{n:05}", connection_type=kinds[n % 4], latency_ms=n % 97, tx_rate=n % 1009)
            for n in range(count)
        ],
        0.0,
    )
    return console


def desk_of(console: Console, app: ShadowMeshApp) -> Desk:
    """As if it were the controller's: nobody follows it, and nothing that is asked is answered."""
    context = Context("login", "https://vpn.example.org:8443")
    desk = Desk(context, lambda: Now(200.0, NOW.timestamp()), app.changed, Pace())
    desk.console = console
    return desk


# what the screens read for themselves, by what they call it


def people() -> dict[str, Any]:
    """Users of all kinds and who is invited, members of acme-prod, sessions, API keys."""
    day = dt.timedelta(days=1)

    def user(n: int, email: str, **more: Any) -> User:
        values = {
            "id": f"usr_{n}",
            "email": email,
            "admin": False,
            "disabled": False,
            "created_at": NOW - (50 + n) * day,
        }
        return User.model_validate(values | more)

    users = [
        user(1, "anna@example.org", name="Anna", admin=True, second_factor=True, last_seen=NOW),
        user(2, "ben@example.org", name="Ben", admin=True, last_seen=NOW - 3 * day),
        user(3, "cleo@example.org", name=WIDE, last_seen=NOW - dt.timedelta(minutes=7)),
        user(4, "gone@example.org", disabled=True, last_seen=NOW - 40 * day),
        user(5, "backup@example.org", kind="service", last_seen=NOW - dt.timedelta(hours=2)),
        user(6, f"{'long-' * 12}address@example.org"),
    ]
    invitation = UserInvitation(
        id="uin_1", email="new@example.org", role="user", network="net_0001", network_role="member", created_at=NOW - day,
        created_by="anna@example.org", expires_at=NOW + 6 * day,
    )  # fmt: skip
    members = [
        NetworkMember(user="usr_1", email="anna@example.org", role="owner", effective=ALL[1:]),
        NetworkMember(user="usr_3", email="cleo@example.org", role="member", permissions=[Permission.LOGS_VIEW],
                      effective=[Permission.LOGS_VIEW], groups=["operators"]),
        NetworkMember(email="later@example.org", role="guest", effective=[Permission.NETWORK_VIEW], groups=["guests"],
                      own=False),
    ]  # fmt: skip
    sessions = [
        SessionInfo(id=f"ses_{n}", user=email, created_at=NOW - n * day, expires_at=NOW + n * day, last_used=NOW - n * dt.timedelta(
            minutes=5), source=f"192.0.2.{n}", client=client, current=n == 1)
        for n, (email, client) in enumerate((("anna@example.org", "shadowmesh 0.3.0"), ("anna@example.org", "Firefox 130 on Linux"),
                                             ("ben@example.org", WIDE)), 1)
    ]  # fmt: skip
    keys = [
        ApiKey(id="key_1", name="backup", user="backup@example.org", created_at=NOW - 9 * day, expires_at=NOW + 30 * day,
               last_used=NOW - dt.timedelta(hours=2), scopes=["network.view"], networks=["net_0001"], read_only=True),
        ApiKey(id="key_2", name="joiner", user="anna@example.org", created_at=NOW - 9 * day, scopes=["client.register"],
               networks=["net_0001", "net_0002"]),
        ApiKey(id="key_3", name="", user="ben@example.org", created_at=NOW - 90 * day, expires_at=NOW - day),
    ]  # fmt: skip
    return {
        "users": {"users": users, "invitations": [invitation], "missing": ["ben@example.org"]},
        "members net_0001": members,
        "sessions": sessions,
        "keys": {"keys": keys, "services": ["backup@example.org"]},
    }


def log_lines() -> list[ConnectionLog]:
    kinds = (
        ("client_online", "", "controller"), ("connect", "relay.upgrading", "client"), ("upgrade_p2p", "direct.punched", "client"),
        ("fallback_relay", "relay.path_lost", "client"), ("disconnect", "none.idle", "client"), ("client_removed", "", "controller"),
        ("network_changed", "", "controller"), ("relay_changed", "", "relay"),
    )  # fmt: skip
    names = ("server-1", "laptop-3", WIDE)
    lines = []
    for n in range(1, 41):
        kind, reason, source = kinds[n % len(kinds)]
        told = source == "client"
        lines.append(
            ConnectionLog(
                log_id=n, timestamp=NOW - dt.timedelta(seconds=41 - n), client_id="" if source == "relay" else "cli_0001",
                client_name="" if source == "relay" else names[n % 3], remote_peer_id="cli_0004" if told else "",
                remote_peer_name="vpn-gw" if told else "", event_type=kind, path="relay" if "relay" in reason else "direct",
                reason=reason, latency_ms=1.7 * n if told else None, source=source,
                relay_name="eu-1" if source == "relay" or "relay" in reason else None,
                detail={} if told else {"change": "settings", "by": "anna@example.org"},
            )
        )  # fmt: skip
    return lines


def audit_lines() -> list[AuditEntry]:
    made = (
        ("anna@example.org", "network.create", "acme-prod", {"network": "acme-prod", "after": {"subnet": "10.100.1.0/24"}}),
        ("anna@example.org by joiner", "client.approve", "server-1", {"network": "acme-prod", "id": "cli_0001"}),
        ("ben@example.org", "user.set", "gone@example.org", {"before": {"disabled": False}, "after": {"disabled": True}}),
        ("local", "network.set", WIDE, {"network": WIDE, "before": {"description": ""}, "after": {"description": WIDE}}),
    )  # fmt: skip
    return [
        AuditEntry(seq=n, at=NOW - dt.timedelta(minutes=30 - n), actor=who_, action=action, target=target, detail=detail,
                   hash=f"{n:02}" * 32)
        for n, (who_, action, target, detail) in enumerate(made * 3, 1)
    ]  # fmt: skip


def templates() -> list[Template]:
    own = Template(
        name="branch", description="A branch office", built_in=False, created_at=NOW, created_by="anna@example.org",
        settings=TemplateSettings(approval=True, max_clients=50, relay="eu-1", description=WIDE),
    )  # fmt: skip
    return [*BUILT_IN.values(), own]


Change = Callable[[Console], None]
