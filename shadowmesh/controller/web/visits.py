"""Who looks at a page: the cookie that a browser shows, and the headers that every answer carries.

The cookie holds the tokens of a session (`service.sessions`) or an API key. Tokens that ran out are changed for the next
ones while a page is answered; whatever ends a session or a key ends what the cookie is good for at the next request.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shadowmesh.controller.authz import Principal, not_signed_in
from shadowmesh.controller.edge.connections import active
from shadowmesh.controller.service.api_keys import KEY_PREFIX
from shadowmesh.controller.service.services import Services
from shadowmesh.model import accounts
from shadowmesh.model.errors import ShadowMeshError

SESSION, DEVICE, VISITOR = "__Host-session", "__Host-device", "__Host-visitor"
_FORM, _SIGN_IN = "web form", "web form of a visitor"  # labels of keyed hashes
_MAX_COOKIE = 2500
_YEAR = 365 * 86400
_VISIT = "shadowmesh.web.visit"
_FOR_ALL = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass
class Visit:
    """One request. `who` is known once `resolve` found it out."""

    at: Services
    cookies: dict[str, str]
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    who: Principal | None = None
    sent: list[str] = field(default_factory=list)  # Set-Cookie
    _resolved: bool = False

    async def resolve(self, connection: HTTPConnection) -> Principal:
        """Raises ShadowMeshError(not_signed_in)."""
        if not self._resolved:
            self._resolved = True
            self.who = await self._found()
        if self.who is None:
            raise not_signed_in()
        active(connection)
        return self.who

    async def _found(self) -> Principal | None:
        shown = self.cookies.get(SESSION, "")
        if not shown or len(shown) > _MAX_COOKIE:
            return None
        if shown.startswith(KEY_PREFIX):
            return await _principal(self.at, shown)
        access, _, refresh = shown.partition("~")
        found = await _principal(self.at, access)
        if found is not None or not refresh:
            return found
        try:
            session = await self.at.sessions.refresh(refresh)
        except ShadowMeshError as e:
            if e.code != "session_expired":
                raise
            return None
        self.keep(session)
        return await _principal(self.at, session.access_token)

    @property
    def refresh_token(self) -> str | None:
        shown = self.cookies.get(SESSION, "")
        return None if shown.startswith(KEY_PREFIX) else shown.partition("~")[2] or None

    def keep(self, session: accounts.Session) -> None:
        """The browser shows these tokens from now on."""
        self._set(SESSION, f"{session.access_token}~{session.refresh_token}")
        if session.device_token is not None:
            self._set(DEVICE, session.device_token, _YEAR)

    def keep_key(self, key: str) -> None:
        self._set(SESSION, key)

    def forget(self) -> None:
        self._set(SESSION, "", 0)

    @property
    def form_token(self) -> str:
        """Goes with every form of this page, and with what comes of it: another site's page has none of this session."""
        if self.who is None:
            return self.visitor_token
        return self.at.context.keys.vault.mac(_FORM, self.who.credential or "")

    @property
    def visitor_token(self) -> str:
        """As `form_token`, of this browser, whether or not somebody is signed in: a page to sign in is no session's."""
        if VISITOR not in self.cookies:
            self.cookies[VISITOR] = secrets.token_urlsafe(16)
            self._set(VISITOR, self.cookies[VISITOR])
        return self.at.context.keys.vault.mac(
            _SIGN_IN, self.cookies[VISITOR]
        )  # what a browser shows there is its own choice

    def _set(self, name: str, value: str, lasts: int | None = None) -> None:
        age = "" if lasts is None else f"; Max-Age={lasts}"
        self.sent = [c for c in self.sent if not c.startswith(name + "=")]
        self.sent.append(f"{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict{age}")

    @property
    def policy(self) -> str:
        """What a page may load: what this controller sent with it, and nothing else."""
        only = f"'nonce-{self.nonce}'"
        return (
            f"default-src 'none'; script-src {only}; style-src {only}; img-src 'self'; connect-src 'self';"
            " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )


async def _principal(at: Services, bearer: str) -> Principal | None:
    try:
        return await at.credentials.principal(bearer)
    except ShadowMeshError as e:
        if e.code != "not_signed_in":
            raise
        return None


def visit_of(connection: HTTPConnection) -> Visit:
    found = connection.scope[_VISIT]
    assert isinstance(found, Visit)
    return found


class Visits:
    """Gives each request its visit, and each answer its cookies and headers."""

    def __init__(self, app: ASGIApp, at: Services) -> None:
        self._app = app
        self._at = at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        shown = HTTPConnection(scope).headers.get("cookie", "")
        visit = Visit(self._at, cookie_parser(shown))
        scope[_VISIT] = visit

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _FOR_ALL.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", visit.policy)
                for cookie in visit.sent:
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await self._app(scope, receive, sending)
