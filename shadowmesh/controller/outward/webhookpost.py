"""A webhook's request: signed as the Standard Webhooks specification has it, answered within some seconds.

```
webhook-id: msg_…          the same for each attempt
webhook-timestamp: 1764…   Unix time of the attempt, seconds
webhook-signature: v1,BASE64   HMAC-SHA256(secret, id ‖ "." ‖ timestamp ‖ "." ‖ body)
```

`whsec_` before a secret is no part of it; the rest is its base64.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpcore

from shadowmesh import __version__
from shadowmesh.controller.outward.destinations import CheckedBackend, Destinations
from shadowmesh.controller.outward.failures import why
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import escaped

PREFIX: Final = "whsec_"
TIMEOUT = 15.0  # seconds, for all of a request
_KEPT = 60.0  # seconds that an idle connection is kept
_MOST_ANSWER = 4096  # bytes that are read of it
_REFUSALS = frozenset({400, 413, 415, 422})  # of what was sent, and not of when or by whom
_GONE = 410


MOST_SAID = 300  # characters that are kept of what a receiver says


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refused`: what was sent is at fault, as the receiver says; `gone`: it wants no more; `wait`: seconds that it asks for.

    `said` may be the receiver's own words: they become one line that shows what it is, and that every database keeps.
    """

    ok: bool
    said: str
    refused: bool = False
    gone: bool = False
    wait: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "said", escaped(self.said[:MOST_SAID])[:MOST_SAID])


def new_webhook_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def tls_for(url: str, ca: str | None) -> ssl.SSLContext | None:
    """By these authorities (PEM), else by the system's; None where the URL asks for none. Raises ssl.SSLError, ValueError."""
    if urlsplit(url).scheme not in ("https", "tls"):
        return None
    context = ssl.create_default_context(cadata=ca)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Poster:
    """One receiver's connections. A redirect isn't followed: it is an answer that isn't 2xx."""

    def __init__(self, url: str, secret: str, tls: ssl.SSLContext | None, destinations: Destinations) -> None:
        self._url = url
        self._secret = secret
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=1,
            keepalive_expiry=_KEPT,
            network_backend=CheckedBackend(destinations),
        )

    async def post(self, message_id: str, timestamp: int, body: bytes) -> Outcome:
        headers: dict[bytes | str, bytes | str] = {
            "Host": _host_of(self._url),
            "User-Agent": f"ShadowMesh/{__version__}",
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, message_id, timestamp, body),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._pool.stream("POST", self._url, headers=headers, content=body) as answer,
            ):
                text = await _beginning(answer)
        except TimeoutError:
            return Outcome(False, f"no answer within {TIMEOUT:g} s")
        except ShadowMeshError as e:
            return Outcome(False, e.what)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ssl.SSLError) as e:
            return Outcome(False, why(e))
        return judge(answer.status, text, dict(answer.headers).get(b"retry-after", b"").decode("latin-1"))

    async def close(self) -> None:
        await self._pool.aclose()


def judge(status: int, text: str, retry_after: str) -> Outcome:
    if 200 <= status < 300:
        return Outcome(True, f"{status}")
    wait = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 6 else None
    return Outcome(False, f"{status} {text}".strip(), refused=status in _REFUSALS, gone=status == _GONE, wait=wait)


async def _beginning(answer: httpcore.Response) -> str:
    found = b""
    async for piece in answer.aiter_stream():
        found += piece
        if len(found) >= _MOST_ANSWER:
            break
    return " ".join(found[:_MOST_ANSWER].decode("utf-8", "replace").split())


def _host_of(url: str) -> str:
    return url.split("/", 3)[2].partition("?")[0]
