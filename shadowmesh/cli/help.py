"""`shadowmesh help WORD`: verbs by topic, and the page of a reason code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, table, verb
from shadowmesh.cli.main import build
from shadowmesh.cli.pages import GENERAL
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.reasons import EXPLANATIONS, PAGES, Reason

# what a person might call it → the verbs that do it
TOPICS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("join", "enroll", "enrol", "register", "invite", "login"): (
        "join INVITE", "register --controller URL --invite CODE", "network invite NAME", "network invites NAME",
    ),
    ("path", "relay", "relayed", "direct", "nat", "slow", "latency", "why"): (
        "why PEER", "ping PEER --until-direct", "status", "relay list",
    ),
    ("status", "peers", "list", "who", "online"): ("status --watch", "peers", "client list NETWORK", "tui"),
    ("doctor", "broken", "trouble", "check", "problem", "diagnose"): ("doctor", "status", "why PEER"),
    ("stop", "off", "disable", "leave", "remove", "delete"): (
        "down [NETWORK]", "leave NETWORK", "client remove NETWORK CLIENT", "device remove DEVICE",
        "network delete NAME",
    ),
    ("controller", "server", "setup", "init", "install", "systemd", "service", "start"): (
        "controller init", "controller run", "relay token", "relay run", "daemon run", "daemon install",
        "controller install", "relay install",
    ),
    ("key", "rotate", "secret", "token"): ("network rotate-key NAME", "api-key create", "relay token"),
    ("approve", "approval", "pending"): ("client list NETWORK", "client approve NETWORK CLIENT", "client deny NETWORK CLIENT"),
    ("stolen", "lost", "theft", "device"): ("device remove DEVICE", "device list"),
    ("wireguard", "wg", "phone", "router", "export"): ("export wireguard PEER --takeover",),
    ("demo", "lab", "test", "try"): ("demo", "lab up", "lab status", "lab down"),
    ("bench", "speed", "throughput", "measure", "slow"): ("bench PEER", "bench --serve"),
    ("audit", "log", "history"): ("audit list", "audit verify", "audit export F", "logs NETWORK", "syslog create URL"),
    ("webhook", "event", "events", "notify", "alert", "siem", "forward", "syslog"): (
        "webhook create URL", "webhook list", "syslog create URL", "syslog list",
    ),
    ("usage", "bytes", "traffic", "quota", "limit", "plan", "metering", "billing"): ("usage NETWORK", "plan list", "plan set NAME"),
    ("export", "csv", "file"): ("logs NETWORK", "audit export F"),
    ("backup", "restore", "move", "migrate", "database", "postgres", "postgresql", "sqlite", "upgrade", "ha", "cluster", "node"): (
        "controller backup FILE", "controller restore FILE", "controller migrate --to URL", "controller upgrade", "controller nodes",
        "controller drain NODE", "controller set-urls URL", "controller secrets export",
    ),
    ("admin", "administrator", "role", "roles", "rights", "permission", "permissions", "rbac", "owner", "allow"): (
        "user set EMAIL --admin", "member set-role NETWORK EMAIL", "group set-role GROUP NETWORK", "access explain EMAIL NETWORK",
        "access policy EMAIL",
    ),
    ("password", "mfa", "2fa", "totp", "authenticator"): (
        "user reset-password EMAIL", "user mfa enrol", "user mfa reset EMAIL", "controller settings --mfa-required admin",
    ),
    ("yaml", "declarative", "gitops", "terraform", "template", "config", "configuration"): (
        "apply FILE", "diff FILE", "template list", "config example ROLE", "config check FILE", "config show",
    ),
    ("certificate", "certificates", "cert", "tls", "mtls"): ("api-key certificate KEY --out DIR", "controller fingerprint"),
    ("ci", "script", "scripts", "automation", "robot", "service"): ("user add EMAIL --service", "api-key create --user EMAIL"),
}  # fmt: skip
# words for what there are no verbs → what there is instead
NOTES: dict[tuple[str, ...], str] = {
    ("dns", "name", "names", "hosts", "hostname", "resolve", "resolver"): (
        "Verbs take peers by name (`shadowmesh ping PEER`); other programs don't resolve these names yet. For them, put peers into /etc/hosts:\n"
        "shadowmesh peers --json | jq -r '.peers[] | \"\\(.ip) \\(.name)\"'"
    ),
}


def attach(app: typer.Typer) -> None:
    verb(app, "help", ["help slow", "help network create", "help reason relay.both_symmetric"])(help_)


def help_(
    call: Call,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="A verb, a word, `options`, or `reason CODE`.", metavar="WORD", autocompletion=suggest.topic
        ),
    ] = None,
) -> None:
    """Find verbs by topic, show a verb's page, or explain a reason code: `help reason relay.both_symmetric`."""
    words = words or []
    if words[:1] == ["reason"]:
        _reason(call, words[1] if len(words) > 1 else None)
        return
    if words == ["options"]:
        options = [{"flags": flags, "help": what} for flags, what in GENERAL.values()]
        call.done("options/1", {"options": options}, lambda: table(("OPTION", "MEANING"), GENERAL.values()))
        return
    verbs = dict(_verbs())
    page = " ".join(words)
    if page in verbs and not call.json:
        build(words[0])(args=[*words, "--help"], prog_name="shadowmesh", standalone_mode=False)
        return
    wanted = {w.lower() for w in words}
    found: dict[str, str] = {}  # the verb → how it is called
    for names, calls in TOPICS.items():
        if not wanted or wanted & set(names):
            found |= {_verb_of(text, verbs): text for text in calls if _verb_of(text, verbs) not in found}
    found |= {path: path for path in verbs if wanted & set(path.split()) and path not in found}
    notes = [text for names, text in NOTES.items() if wanted & set(names)]
    if not found and not notes:  # what the pages of verbs say of it
        found = {path: path for path, text in _pages() if all(word in text for word in wanted)}
    if not found and not notes:
        raise ShadowMeshError("no_topic", f"nothing about {page!r}", "see `shadowmesh --help`", kind=Kind.NOT_FOUND)
    width = max(map(len, found.values()), default=0)
    call.done(
        "help/1",
        {
            "verbs": [{"verb": path, "usage": text, "help": verbs[path]} for path, text in found.items()],
            "notes": notes,
        },
        lambda: "\n".join([*notes, *(f"shadowmesh {text:<{width}}  {verbs[path]}" for path, text in found.items())]),
    )


def _verb_of(text: str, verbs: Iterable[str]) -> str:
    return max((path for path in verbs if f"{text} ".startswith(f"{path} ")), key=len)


def _verbs() -> Iterator[tuple[str, str]]:
    """Every verb with the first line of its help."""
    return ((path, (command.help or "").partition("\n")[0]) for path, command in _commands())


def _pages() -> Iterator[tuple[str, str]]:
    """Every verb with all that its page says, in small letters."""
    for path, command in _commands():
        options = (getattr(option, "help", None) or "" for option in command.params)
        yield path, " ".join([path, command.help or "", command.epilog or "", *options]).lower()


def _commands() -> Iterator[tuple[str, Any]]:
    import typer.main

    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        below = getattr(command, "commands", {})
        for name, child in below.items():
            yield from walk(child, f"{path} {name}".strip())
        if path and not below and not command.hidden:
            yield path, command

    yield from walk(typer.main.get_command(build(None)), "")


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
    page = PAGES[reason].strip()
    told = {"code": code, "explanation": EXPLANATIONS[reason], "page": page}
    call.done("reason/1", told, f"{code}: {EXPLANATIONS[reason]}\n\n{page}")
