"""What a file says of webhooks and syslog receivers. Their secrets are in other files or in the environment, and in nothing that
is printed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shadowmesh.client_api.yamldocument import YamlDocument
from shadowmesh.model.api import Request
from shadowmesh.model.receivers import Bundle, EventType, Sink, Stream, SyslogUrl, WebhookSecret, WebhookUrl

_LARGEST = 64 * 1024
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class DesiredSink:
    """None: the file doesn't say. `ca`: empty for the system's authorities."""

    stream: Stream
    url: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    events: tuple[EventType, ...] | None = None
    ca: str | None = None
    backlog: bool = False


class _WebhookFields(Request):
    stream: Stream = "events"
    events: list[EventType] | None = None
    backlog: bool = False


class _SyslogFields(Request):
    stream: Stream = "audit"
    backlog: bool = False


class _WebhookPlace(Request):
    url: WebhookUrl


class _SyslogPlace(Request):
    url: SyslogUrl


class _Signed(Request):
    secret: WebhookSecret


class _Authorities(Request):
    ca: Bundle


def webhook_entry(document: YamlDocument, path: _Path, value: Any) -> DesiredSink:
    said = dict(document.mapping(path, value, ("url", "secret", "stream", "events", "backlog", "ca")))
    url = _secret(document, (*path, "url"), said.pop("url", None), _WebhookPlace, literal=True)
    secret = _secret(document, (*path, "secret"), said.pop("secret", None), _Signed)
    ca = _authorities(document, path, said)
    found = document.model(path, _WebhookFields, said)
    if found.events and found.stream != "events":
        what = f"the stream {found.stream} has no types of events"
        raise document.bad((*path, "events"), what, "leave them out")
    if path[0] == "networks" and found.stream == "audit":
        raise document.bad((*path, "stream"), "the audit log is of the whole controller", "write it below `webhooks`")
    return DesiredSink(
        found.stream, url, secret, None if found.events is None else tuple(found.events), ca, found.backlog
    )


def syslog_entry(document: YamlDocument, path: _Path, value: Any) -> DesiredSink:
    said = dict(document.mapping(path, value, ("url", "stream", "backlog", "ca")))
    url = _secret(document, (*path, "url"), said.pop("url", None), _SyslogPlace, literal=True)
    ca = _authorities(document, path, said)
    found = document.model(path, _SyslogFields, said)
    return DesiredSink(found.stream, url, ca=ca, backlog=found.backlog)


def sink_as_file(sink: Sink) -> dict[str, Any]:
    """What there is of it to see: a webhook's URL, its secret and certificates aren't."""
    said: dict[str, Any] = {"stream": sink.stream}
    if sink.id.startswith("slg_"):
        return {"url": sink.url} | said
    return said | ({"events": sink.events} if sink.stream == "events" else {})


def _authorities(document: YamlDocument, path: _Path, said: dict[str, Any]) -> str | None:
    if "ca" in said and said["ca"] is None:
        del said["ca"]
        return ""
    ca = _secret(document, (*path, "ca"), said.pop("ca", None), _Authorities, literal=True, whole=True)
    with document.going_on():
        try:
            ssl.create_default_context(cadata=ca)
        except (ssl.SSLError, ValueError, TypeError) as e:
            raise document.bad((*path, "ca"), "the authorities aren't certificates in PEM", "give the file") from e
    return ca


def _secret(
    document: YamlDocument, path: _Path, value: Any, kind: type[Request], *, literal: bool = False, whole: bool = False
) -> str | None:
    """`{env: NAME}` or `{file: PATH}`, from the folder of the document on; where that is no secret also as it is. A mistake
    is kept for `check`, and told without the value."""
    with document.going_on():
        if value is None:
            return None
        name = str(path[-1])
        if isinstance(value, str):
            if not literal:
                what = f"{name} stands in the file, where others read it"
                raise document.bad(path, what, "write {env: NAME} or {file: PATH}")
            text = value
        else:
            said = document.mapping(path, value, ("env", "file"))
            if len(said) != 1 or not all(isinstance(place, str) for place in said.values()):
                raise document.bad(path, f"{name} is neither text nor one place", "write {env: NAME} or {file: PATH}")
            text = _read(document, path, said)
        text = text if whole else text.strip()
        try:
            kind(**{name: text})
        except ValidationError as e:
            why = e.errors()[0]["msg"].removeprefix("Value error, ")
            why = "isn't usable" if "pattern" in e.errors()[0]["type"] else why[:1].lower() + why[1:]
            raise document.bad(path, f"this {name} {why}", "correct it") from None
        return text
    return None


def _read(document: YamlDocument, path: _Path, said: Mapping[str, str]) -> str:
    if (name := said.get("env")) is not None:
        if not os.environ.get(name):
            raise document.bad(path, f"{name} isn't in the environment", "set it")
        return os.environ[name]
    file = Path(said["file"])
    if document.folder is not None:
        file = document.folder / file
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST).decode()
    except (OSError, UnicodeDecodeError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "not text"
        raise document.bad(path, f"{file} can't be read ({why})", "check the path") from e
