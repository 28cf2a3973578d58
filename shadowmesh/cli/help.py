"""`shadowmesh help WORD`: verbs by topic, and the page of a reason code."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowmesh.cli.base import Call, table, verb
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.reasons import EXPLANATIONS, Reason

# what a person might call it → the verbs that do it
TOPICS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("join", "enroll", "enrol", "register", "invite", "login"): (
        "join INVITE", "register --controller URL --invite CODE", "network invite NAME", "network invites NAME",
    ),
    ("path", "relay", "relayed", "direct", "nat", "slow", "latency", "why"): (
        "why PEER", "ping PEER --until-direct", "status", "relay list",
    ),
    ("status", "peers", "list", "who", "online"): ("status --watch", "peers", "client list NETWORK", "tui"),
    ("stop", "off", "disable", "leave", "remove", "delete"): (
        "down [NETWORK]", "leave NETWORK", "client remove NETWORK CLIENT", "network delete NAME",
    ),
    ("controller", "server", "setup", "init", "install"): (
        "controller init", "controller run", "relay token", "relay run", "daemon run",
    ),
    ("key", "rotate", "secret", "token"): ("network rotate-key NAME", "api-key create", "relay token"),
    ("approve", "approval", "pending"): ("client list NETWORK", "client approve NETWORK CLIENT", "client deny NETWORK CLIENT"),
    ("wireguard", "wg", "phone", "router", "export"): ("export wireguard PEER --takeover",),
    ("demo", "lab", "test", "try"): ("demo", "lab up", "lab status", "lab down"),
    ("audit", "log", "history"): ("audit list", "audit verify"),
}  # fmt: skip


def attach(app: typer.Typer) -> None:
    verb(app, "help")(help_)


def help_(
    call: Call,
    words: Annotated[list[str] | None, typer.Argument(help="A word, or `reason CODE`.", metavar="WORD")] = None,
) -> None:
    """Find verbs by topic, or explain a reason code: `help reason relay.both_symmetric`."""
    words = words or []
    if words[:1] == ["reason"]:
        _reason(call, words[1] if len(words) > 1 else None)
        return
    wanted = {w.lower() for w in words}
    found = list(
        dict.fromkeys(v for names, verbs in TOPICS.items() if not wanted or wanted & set(names) for v in verbs)
    )
    if not found:
        raise ShadowMeshError(
            "no_topic", f"nothing about {' '.join(words)!r}", "see `shadowmesh --help`", kind=Kind.NOT_FOUND
        )
    call.done("help/1", {"verbs": found}, "\n".join(f"shadowmesh {v}" for v in found))


def _reason(call: Call, code: str | None) -> None:
    if code is None:
        call.done("reasons/1", {"reasons": EXPLANATIONS}, table(("CODE", "MEANING"), EXPLANATIONS.items()))
        return
    try:
        reason = Reason(code)
    except ValueError as e:
        raise ShadowMeshError(
            "no_reason", f"no reason code {code!r}", "`shadowmesh help reason` lists them", kind=Kind.NOT_FOUND
        ) from e
    call.done("reason/1", {"code": code, "explanation": EXPLANATIONS[reason]}, f"{code}: {EXPLANATIONS[reason]}")
