"""The shapes of the REST API that are about where events and logs are sent: webhooks, syslog."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from shadowmesh.model.api import Answer, Flag, Request

Stream = Literal["events", "logs", "audit"]
SinkState = Literal["ok", "failing", "no_rights", "gone"]
EventType = Literal[
    "client_online", "client_offline", "client_pending", "client_removed", "connection_upgrade", "network_changed",
    "relay_changed", "quota_warning", "quota_reached",
]  # fmt: skip
_MOST_URL = 2000
_SECRET_BYTES = (24, 64)  # as the specification has it


def place_of(url: str) -> str:
    """Where a URL leads, without its path: that may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _url_of(url: str, schemes: tuple[str, ...]) -> str:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("is no URL")
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"is no URL that begins with {' or '.join(f'{s}://' for s in schemes)} and has a host")
    if parts.username is not None or parts.fragment:
        raise ValueError("has a user or a fragment, which go nowhere")
    if parts.port == 0:  # which raises ValueError for what is no port
        raise ValueError("has no port that can be reached")
    return url


def _webhook_url(url: str) -> str:
    return _url_of(url, ("https", "http"))


def _syslog_url(url: str) -> str:
    url = _url_of(url, ("udp", "tcp", "tls"))
    if urlsplit(url).path not in ("", "/") or urlsplit(url).query:
        raise ValueError("has more than a host and a port")
    return url


def _webhook_secret(secret: str) -> str:
    try:
        length = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except binascii.Error as e:
        raise ValueError("is whsec_ and base64") from e
    if not _SECRET_BYTES[0] <= length <= _SECRET_BYTES[1]:
        raise ValueError("has 24 to 64 bytes")
    return secret


def blinded(nonce: str, value: str) -> str:
    """By which two who have a value see that it is the same, and nobody else sees what it is."""
    return hmac.new(nonce.encode(), value.encode(), hashlib.sha256).hexdigest()


def digest_of(ca: str | None) -> str | None:
    """Of certificates, as lists show them."""
    return None if ca is None else "sha256:" + hashlib.sha256(ca.encode()).hexdigest()


WebhookUrl = Annotated[str, Field(max_length=_MOST_URL), AfterValidator(_webhook_url)]
SyslogUrl = Annotated[str, Field(max_length=_MOST_URL), AfterValidator(_syslog_url)]
Bundle = Annotated[
    str, StringConstraints(pattern=r"^[\t\n\r\x20-\x7e]*$"), Field(max_length=20_000, description="Certificates, PEM")
]
SinkName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
    Field(description="One of its kind in its network, or of all networks. Its id, where none is given."),
]
WebhookSecret = Annotated[
    str,
    StringConstraints(pattern=r"^whsec_[A-Za-z0-9+/]{32,88}={0,2}$"),
    AfterValidator(_webhook_secret),
    Field(description="whsec_ and the base64 of 24 to 64 bytes"),
]
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,64}$")]
Blinded = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class WebhookCreate(Request):
    """`events`: these alone, of the stream of events. `backlog`: what is kept of before, too. `ca`: PEM, by which the
    receiver's certificate is checked instead of the system's authorities. `secret`: where the receiver has it already;
    else one is made."""

    url: WebhookUrl
    name: SinkName | None = None
    secret: WebhookSecret | None = None
    stream: Stream = "events"
    events: list[EventType] = Field(default_factory=list, max_length=50)
    backlog: Flag = False
    ca: Bundle | None = None


class SyslogCreate(Request):
    """`url`: udp://, tcp:// or tls://HOST:PORT."""

    url: SyslogUrl
    name: SinkName | None = None
    stream: Stream = "audit"
    backlog: Flag = False
    ca: Bundle | None = None


class SyslogPatch(Request):
    """What isn't said stays. `ca`: empty for the system's authorities."""

    url: SyslogUrl | None = None
    ca: Bundle | None = None


class WebhookPatch(Request):
    """What isn't said stays; the stream always does. `events`: none for all. `ca`: empty for the system's authorities."""

    url: WebhookUrl | None = None
    secret: WebhookSecret | None = None
    events: list[EventType] | None = Field(default=None, max_length=50)
    ca: Bundle | None = None


class Sink(Answer):
    """Where something is sent. `url` has no path. `state`: failing is tried again at `next_attempt`; with `no_rights` who
    made it may not see any more what is sent, and nothing is; `gone` is a receiver that said so. `waiting`: how many
    numbers of the stream it is behind; `dropped`: of how many it never will be sent, as they were kept no longer."""

    id: str  # whk_…, slg_…
    name: str = ""
    network_id: str | None = None
    network: str | None = None  # its name
    url: str
    stream: Stream
    events: list[str] = Field(default_factory=list)
    ca_digest: str | None = None  # None: by the system's authorities
    state: SinkState
    created_at: datetime
    created_by: str
    delivered: int
    waiting: int
    dropped: int
    last_success: datetime | None = None
    last_error: str | None = None
    failing_since: datetime | None = None
    next_attempt: datetime | None = None


class SinkCreated(Sink):
    """`secret` (webhooks) is what signatures are made with; it can't be shown again."""

    secret: str | None = None


class SinkCompared(Answer):
    """Whether the whole URL, and the secret, are those that were asked about; None: nobody asked."""

    url: bool | None = None
    secret: bool | None = None


class SinkTested(Answer):
    """`answer`: what the receiver said, or what failed."""

    ok: bool
    answer: str
    milliseconds: float
