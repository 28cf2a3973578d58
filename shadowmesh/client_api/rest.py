"""The typed client of a controller's REST API: one method for each verb of management.

`ControllerClient.choose` finds the controller as the command line does: a data directory on this host (its socket, no
signing in), else the environment, else what `shadowmesh login` has kept.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from shadowmesh.client_api import logins
from shadowmesh.client_api.localhttp import SOCKET_NAME, Answer, LocalHttp, no_permission, not_running
from shadowmesh.client_api.logins import SavedLogin
from shadowmesh.model import api
from shadowmesh.model.codec import from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.text import canonical_email

if TYPE_CHECKING:
    import ssl

    import httpx

    from shadowmesh.protocol.signing import IdentityDocument

M = TypeVar("M", bound=BaseModel)

LOCK_NAME = "controller.lock"  # held by the controller that runs
DEFAULT_DATA_DIR = Path("/var/lib/shadowmesh-controller")
_TIMEOUT = 30.0
_FULL_PAGE = 500


class ControllerClient:
    """Raises ShadowMeshError for everything that goes wrong, with the controller's own code and words where it answered."""

    def __init__(self, client: httpx.Client | LocalHttp, place: str, *, login: SavedLogin | None = None) -> None:
        self._client = client
        self._place = place
        self._login = login

    # choosing one

    @classmethod
    def local(cls, data_dir: Path) -> Self:
        """Over the socket of the controller that runs on this host. Raises ShadowMeshError(controller_unreachable)."""
        try:
            os.close(os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except PermissionError as e:
            raise no_permission(data_dir) from e
        except OSError as e:
            raise not_running(data_dir) from e
        return cls(LocalHttp(data_dir, _TIMEOUT), str(data_dir / SOCKET_NAME))

    @classmethod
    def remote(cls, url: str, token: str, fingerprint: str | None = None) -> Self:
        """By first contact: see `contact.first_contact`."""
        from shadowmesh.client_api.contact import first_contact

        contact = first_contact(url, fingerprint)
        return cls(_https(contact.url, token, contact.tls), contact.url)

    @classmethod
    def choose(cls, data_dir: Path | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """`data_dir` or SHADOWMESH_DATA_DIR; SHADOWMESH_CONTROLLER with _TOKEN and _FINGERPRINT; the kept login; the
        usual data directory. Raises ShadowMeshError(no_controller) if there is none of these."""
        if data_dir is None and environ.get("SHADOWMESH_DATA_DIR"):
            data_dir = Path(environ["SHADOWMESH_DATA_DIR"])
        if data_dir is not None:
            return cls.local(data_dir)
        if url := environ.get("SHADOWMESH_CONTROLLER"):
            token = environ.get("SHADOWMESH_TOKEN")
            if not token:
                raise ShadowMeshError(
                    "no_token",
                    "SHADOWMESH_CONTROLLER is set, SHADOWMESH_TOKEN isn't",
                    "set both",
                    kind=Kind.NOT_ALLOWED,
                )
            return cls.remote(url, token, environ.get("SHADOWMESH_FINGERPRINT"))
        if logins.login_path().exists():
            return cls.saved()
        if DEFAULT_DATA_DIR.is_dir():
            return cls.local(DEFAULT_DATA_DIR)
        raise ShadowMeshError(
            "no_controller",
            "it isn't said which controller is meant",
            "give --data-dir on the controller's host, or sign in with `shadowmesh login URL`",
            kind=Kind.USAGE,
        )

    @classmethod
    def saved(cls) -> Self:
        """By the kept login."""
        from shadowmesh.client_api.contact import tls_context
        from shadowmesh.protocol.signing import IdentityDocument

        login = logins.load()
        try:
            tls = tls_context(from_json(login.identity, IdentityDocument))
        except MalformedError as e:
            raise logins.unreadable() from e
        return cls(_https(login.url, login.token, tls), login.url, login=login)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def data_dir(self) -> Path | None:
        """The directory of the controller on this host that is asked at its socket; None for one elsewhere."""
        return self._client.data_dir if isinstance(self._client, LocalHttp) else None

    # moving requests

    def _send(
        self, method: str, path: str, body: BaseModel | dict[str, Any] | None = None, **options: Any
    ) -> httpx.Response | Answer:
        if isinstance(body, BaseModel):
            body = body.model_dump(mode="json", exclude_none=True)
        if isinstance(self._client, LocalHttp):
            answer: httpx.Response | Answer = self._client.request(method, api.API + path, json=body, **options)
        else:
            answer = self._send_to(self._client, method, api.API + path, json=body, **options)
        if answer.is_success:
            return answer
        from shadowmesh.client_api.contact import error_of

        raise error_of(answer, self._place)

    def _send_to(self, client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        """To a controller elsewhere, by the login."""
        import httpx

        from shadowmesh.client_api.contact import unreachable

        try:
            answer = client.request(method, path, **options)
            for _ in range(2):  # what another command has renewed may have run out since, too
                if answer.status_code != httpx.codes.UNAUTHORIZED or not self._renew(client):
                    break
                answer = client.request(method, path, **options)
        except httpx.HTTPError as e:
            raise unreachable(self._place, e) from e
        return answer

    def _renew(self, client: httpx.Client) -> bool:
        """A new access token: what another command has renewed meanwhile, else by the refresh token. False: there is none."""
        mine = self._login
        if mine is None or mine.refresh_token is None:
            return False
        with logins.locked():
            kept = logins.load() if logins.login_path().exists() else None
            if kept is None or kept.url != mine.url or kept.refresh_token is None:
                return False  # signed out, or in to another, meanwhile
            if kept.token == mine.token:
                answer = client.post(f"{api.API}/auth/refresh", json={"refresh_token": kept.refresh_token})
                if answer.status_code == HTTPStatus.UNAUTHORIZED:
                    return False
                if not answer.is_success:
                    from shadowmesh.client_api.contact import error_of

                    raise error_of(answer, self._place)
                session = _parse(answer, api.Session)
                kept.token, kept.refresh_token = session.access_token, session.refresh_token
                logins.keep(kept)
        self._login = kept
        client.headers["Authorization"] = f"Bearer {kept.token}"
        return True

    def _get(self, path: str, kind: type[M], **params: Any) -> M:
        return _parse(self._send("GET", path, params={k: v for k, v in params.items() if v is not None}), kind)

    def _post(self, path: str, kind: type[M], body: BaseModel | dict[str, Any] | None = None) -> M:
        # A key of its own for each call: httpx may be told to try again, the controller does it once.
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return _parse(self._send("POST", path, body, headers=headers), kind)

    def _all(self, path: str, kind: type[M], **params: Any) -> Iterator[M]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self._get(path, api.Page[kind], limit=_FULL_PAGE, cursor=cursor, **params)  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    # the controller itself

    def identity(self) -> IdentityDocument:
        """Who it is and where it is reached: as true as the way by which it is asked."""
        from shadowmesh.protocol.signing import ForgedError, read_fingerprint, verify_identity

        content = self._send("GET", "/identity").content
        try:
            return verify_identity(content, read_fingerprint(content))
        except (MalformedError, ForgedError) as e:
            raise ShadowMeshError(
                "bad_answer",
                "the controller's identity isn't understood",
                "is it of another version than this command?",
            ) from e

    # networks

    def network_create(self, wish: api.NetworkCreate) -> api.Network:
        return self._post("/networks", api.Network, wish)

    def network_list(self) -> list[api.Network]:
        return list(self._all("/networks", api.Network))

    def network_show(self, network: str) -> api.Network:
        return self._get(f"/networks/{_part(network)}", api.Network)

    def network_set(self, network: str, wish: api.NetworkPatch) -> api.Network:
        return _parse(self._send("PATCH", f"/networks/{_part(network)}", wish), api.Network)

    def network_delete(self, network: str) -> None:
        self._send("DELETE", f"/networks/{_part(network)}")

    def network_rotate_key(self, network: str) -> api.Network:
        return self._post(f"/networks/{_part(network)}/rotate-key", api.Network)

    def network_map(self, network: str) -> dict[str, Any]:
        """`map` and `signature`, as the members get them."""
        found = self._send("GET", f"/networks/{_part(network)}/map").json()
        assert isinstance(found, dict)
        return found

    # invites

    def invite_create(self, network: str, wish: api.InviteCreate) -> api.InviteCreated:
        return self._post(f"/networks/{_part(network)}/invites", api.InviteCreated, wish)

    def invite_list(self, network: str) -> list[api.Invite]:
        return list(self._all(f"/networks/{_part(network)}/invites", api.Invite))

    def invite_revoke(self, network: str, invite_id: str) -> None:
        self._send("DELETE", f"/networks/{_part(network)}/invites/{_part(invite_id)}")

    # clients: `client` is a name, an overlay address or an id

    def client_list(self, network: str, state: str | None = None) -> list[api.Client]:
        return list(self._all(f"/networks/{_part(network)}/clients", api.Client, state=state))

    def client_show(self, network: str, client: str) -> api.Client:
        return self._get(_client_path(network, client), api.Client)

    def client_approve(self, network: str, client: str) -> api.Client:
        return self._post(_client_path(network, client) + "/approve", api.Client)

    def client_deny(self, network: str, client: str) -> None:
        self._send("POST", _client_path(network, client) + "/deny")

    def client_set(
        self,
        network: str,
        client: str,
        *,
        name: str | None = None,
        ip: ipaddress.IPv4Address | str | None = None,
        tags: list[str] | None = None,
    ) -> api.Client:
        """Renames, moves, tags: what is None stays."""
        values = {"name": name, "ip": None if ip is None else str(ip), "tags": tags}
        body = {key: value for key, value in values.items() if value is not None}
        return _parse(self._send("PATCH", _client_path(network, client), body), api.Client)

    def client_remove(self, network: str, client: str) -> None:
        self._send("DELETE", _client_path(network, client))

    # devices: `device` is its id, or a client's id, name, NAME@NETWORK or address

    def device_list(self) -> list[api.Device]:
        return list(self._all("/devices", api.Device))

    def device_show(self, device: str) -> api.Device:
        return self._get(f"/devices/{_part(device)}", api.Device)

    def device_remove(self, device: str) -> api.Device:
        """Out of all networks in which one may remove it. Returns it as it was."""
        return _parse(self._send("DELETE", f"/devices/{_part(device)}"), api.Device)

    # members

    def member_list(self, network: str) -> list[api.NetworkMember]:
        return list(self._all(f"/networks/{_part(network)}/members", api.NetworkMember))

    def member_set(self, network: str, wish: api.MemberPut) -> api.NetworkMember:
        return _parse(self._send("PUT", f"/networks/{_part(network)}/members", wish), api.NetworkMember)

    def member_remove(self, network: str, user: str) -> None:
        self._send("DELETE", f"/networks/{_part(network)}/members/{_part(user)}")

    # relays

    def relay_token(self, wish: api.RelayTokenCreate | None = None) -> api.RelayTokenCreated:
        return self._post("/relays/tokens", api.RelayTokenCreated, wish or api.RelayTokenCreate())

    def relay_list(self) -> list[api.Relay]:
        return list(self._all("/relays", api.Relay))

    def relay_drain(self, relay: str, *, draining: bool = True) -> api.Relay:
        return self._post(f"/relays/{_part(relay)}/{'drain' if draining else 'undrain'}", api.Relay)

    def relay_remove(self, relay: str) -> None:
        self._send("DELETE", f"/relays/{_part(relay)}")

    # people

    def whoami(self) -> api.WhoAmI:
        return self._get("/whoami", api.WhoAmI)

    def api_key_create(self, wish: api.ApiKeyCreate) -> api.ApiKeyCreated:
        return self._post("/api-keys", api.ApiKeyCreated, wish)

    def api_key_list(self) -> list[api.ApiKey]:
        return list(self._all("/api-keys", api.ApiKey))

    def api_key_revoke(self, key_id: str) -> None:
        self._send("DELETE", f"/api-keys/{_part(key_id)}")

    def user_create(self, wish: api.UserCreate) -> api.UserCreated:
        return self._post("/users", api.UserCreated, wish)

    def user_list(self) -> list[api.User]:
        return list(self._all("/users", api.User))

    def user_set(self, user: str, wish: api.UserPatch) -> api.User:
        return _parse(self._send("PATCH", f"/users/{_part(user)}", wish), api.User)

    def user_reset_password(self, user: str) -> api.UserCreated:
        return self._post(f"/users/{_part(user)}/reset-password", api.UserCreated)

    # audit and events

    def audit_list(self) -> Iterator[api.AuditEntry]:
        return self._all("/audit", api.AuditEntry)

    def audit_verify(self) -> api.AuditVerdict:
        return self._get("/audit/verify", api.AuditVerdict)

    def events(self, since: int = 0, network: str | None = None) -> list[api.Event]:
        """What happened after number `since`, at most 500 of it."""
        return self._get("/events", api.Page[api.Event], cursor=str(since), network=network).items


# signing in


def login(
    url: str,
    *,
    fingerprint: str | None = None,
    token: str | None = None,
    email: str | None = None,
    password: str | None = None,
    new_password: str | None = None,
) -> api.WhoAmI:
    """Signs in with an API key, or with address and password, and keeps it for `ControllerClient.saved`."""
    from shadowmesh.client_api.contact import first_contact

    contact = first_contact(url, fingerprint)
    refresh: str | None = None
    if token is None:
        if email is None or password is None:
            raise ShadowMeshError(
                "no_credentials", "there is nothing to sign in with", "give --token, or --email", kind=Kind.USAGE
            )
        device = f"{contact.identity.identity.fingerprint} {canonical_email(email)}"
        wish = {
            "email": email,
            "password": password,
            "new_password": new_password or None,
            "device_token": logins.device_token(device),
        }
        with ControllerClient(_https(contact.url, "", contact.tls), contact.url) as client:
            session = _parse(client._send("POST", "/auth/login", wish), api.Session)
        if session.device_token is not None:
            with logins.locked():
                logins.keep_device_token(device, session.device_token)
        token, refresh = session.access_token, session.refresh_token
    with ControllerClient(_https(contact.url, token, contact.tls), contact.url) as client:
        who = client.whoami()
    identity = to_json(contact.identity).decode()
    with logins.locked():
        logins.keep(SavedLogin(url=contact.url, token=token, refresh_token=refresh, identity=identity))
    return who


def logout() -> None:
    """Forgets the kept login, and tells the controller if it can be reached."""
    if not logins.login_path().exists():
        return
    import httpx

    with logins.locked():
        with (
            suppress(ShadowMeshError, httpx.HTTPError),
            ControllerClient.saved() as client,
        ):  # else it runs out by itself
            token = client._login.refresh_token if client._login is not None else None
            if token is not None:
                client._client.request("POST", f"{api.API}/auth/logout", json={"refresh_token": token})
        logins.forget()


def _https(url: str, token: str, tls: ssl.SSLContext) -> httpx.Client:
    import httpx

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=headers, verify=tls, timeout=_TIMEOUT, trust_env=False)


def _part(text: str) -> str:
    """One segment of a path, whatever a person typed."""
    if not text:
        raise ShadowMeshError("bad_name", "a name is missing", kind=Kind.USAGE)
    return quote(text, safe="")


def _client_path(network: str, client: str) -> str:
    return f"/networks/{_part(network)}/clients/{_part(client)}"


def _parse(answer: httpx.Response | Answer, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as e:
        raise ShadowMeshError(
            "bad_answer", "the controller's answer isn't understood", "is it of another version than this command?"
        ) from e
