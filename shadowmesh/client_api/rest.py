"""The typed client of a controller's REST API: one method for each verb of management.

`ControllerClient.choose` finds the controller as the command line does: a data directory on this host (its socket, no
signing in), else the environment, else what `shadowmesh login` has kept.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel

from shadowmesh.client_api import logins
from shadowmesh.client_api.localhttp import (
    SOCKET_NAME,
    LocalAnswer,
    LocalHttp,
    no_permission,
    not_running,
)
from shadowmesh.client_api.logins import SavedLogin
from shadowmesh.client_api.peoplecalls import parse, part
from shadowmesh.client_api.usagecalls import UsageCalls
from shadowmesh.model import accounts, api, connectivity, templates
from shadowmesh.model.codec import from_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.places import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    import ssl

    import httpx

    from shadowmesh.protocol.signing import IdentityDocument

M = TypeVar("M", bound=BaseModel)

LOCK_NAME = "controller.lock"  # held by the controller that runs
_TIMEOUT = 30.0
_FULL_PAGE = 500


class ControllerClient(UsageCalls):
    """Raises ShadowMeshError for everything that goes wrong, with the controller's own code and words where it answered."""

    def __init__(
        self,
        client: httpx.Client | LocalHttp,
        place: str,
        *,
        login: SavedLogin | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = client
        self._place = place
        self._login = login
        self.tls = tls  # by which the controller elsewhere is verified

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
        return cls(https_client(contact.url, token, contact.tls), contact.url, tls=contact.tls)

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
    def saved(cls, url: str | None = None) -> Self:
        """By the kept login; by that to the controller of this URL. Raises ShadowMeshError: unreadable_login, not_signed_in."""
        from shadowmesh.client_api.contact import tls_context
        from shadowmesh.protocol.signing import IdentityDocument

        login = logins.load() if url is None else logins.find(url)
        if login is None:
            raise ShadowMeshError("not_signed_in", f"nobody is signed in to {url}", "sign in", kind=Kind.NOT_ALLOWED)
        try:
            tls = tls_context(from_json(login.identity, IdentityDocument))
        except MalformedError as e:
            raise logins.unreadable() from e
        return cls(https_client(login.url, login.token, tls), login.url, login=login, tls=tls)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def place(self) -> str:
        """Its URL, or its socket."""
        return self._place

    @property
    def authorization(self) -> str | None:
        """The header by which a controller elsewhere knows who asks."""
        return None if isinstance(self._client, LocalHttp) else self._client.headers.get("Authorization")

    def renew(self) -> bool:
        """A new access token by the kept login. False: there is none to be had."""
        return not isinstance(self._client, LocalHttp) and self._renew(self._client)

    @property
    def data_dir(self) -> Path | None:
        """The directory of the controller on this host that is asked at its socket; None for one elsewhere."""
        return self._client.data_dir if isinstance(self._client, LocalHttp) else None

    # moving requests

    def _send(
        self, method: str, path: str, body: BaseModel | dict[str, Any] | None = None, **options: Any
    ) -> httpx.Response | LocalAnswer:
        if isinstance(body, BaseModel):
            body = body.model_dump(mode="json", exclude_none=True)
        if isinstance(self._client, LocalHttp):
            answer: httpx.Response | LocalAnswer = self._client.request(method, api.API + path, json=body, **options)
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
            kept = logins.find(mine.url)
            if kept is None or kept.refresh_token is None:
                return False  # signed out, or in to another, meanwhile
            if kept.token == mine.token:
                answer = client.post(f"{api.API}/auth/refresh", json={"refresh_token": kept.refresh_token})
                if answer.status_code == HTTPStatus.UNAUTHORIZED:
                    return False
                if not answer.is_success:
                    from shadowmesh.client_api.contact import error_of

                    raise error_of(answer, self._place)
                session = parse(answer, accounts.Session)
                kept.token, kept.refresh_token = session.access_token, session.refresh_token
                logins.keep_beside(kept)
        self._login = kept
        client.headers["Authorization"] = f"Bearer {kept.token}"
        return True

    def _get(self, path: str, kind: type[M], **params: Any) -> M:
        return parse(self._send("GET", path, params={k: v for k, v in params.items() if v is not None}), kind)

    def _post(self, path: str, kind: type[M], body: BaseModel | dict[str, Any] | None = None) -> M:
        # A key of its own for each call: httpx may be told to try again, the controller does it once.
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return parse(self._send("POST", path, body, headers=headers), kind)

    def _all(
        self,
        path: str,
        kind: type[M],
        pages: type[api.Listing[M]] | None = None,
        cursor: str | None = None,
        **params: Any,
    ) -> Iterator[M]:
        """Everything of a list, page by page."""
        pages = pages or api.Page[kind]  # type: ignore[valid-type]
        while True:
            page = self._get(path, pages, limit=_FULL_PAGE, cursor=cursor, **params)
            yield from page.listed
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

    def network_create(self, wish: api.NetworkCreate) -> api.NetworkCreated:
        said = wish.model_dump(mode="json", exclude_unset=True)  # what isn't said is for its template to say
        return self._post("/networks", api.NetworkCreated, {k: v for k, v in said.items() if v is not None})

    def network_list(self) -> list[api.Network]:
        return list(self._all("/networks", api.Network, api.NetworkList))

    def network_show(self, network: str) -> api.Network:
        return self._get(f"/networks/{part(network)}", api.Network)

    def network_set(self, network: str, wish: api.NetworkPatch) -> api.Network:
        return parse(self._send("PATCH", f"/networks/{part(network)}", wish), api.Network)

    def apply_turn(self, turn: str | None = None) -> api.ApplyTurn:
        """`turn`: one's own, which goes on. Raises ShadowMeshError(apply_running)."""
        return self._post("/apply", api.ApplyTurn, api.ApplyTake(turn=turn))

    def apply_done(self, turn: str) -> None:
        self._send("DELETE", f"/apply/{part(turn)}")

    def network_delete(self, network: str) -> None:
        self._send("DELETE", f"/networks/{part(network)}")

    def network_rotate_key(self, network: str) -> api.Network:
        return self._post(f"/networks/{part(network)}/rotate-key", api.Network)

    def network_map(self, network: str) -> dict[str, Any]:
        """`map` and `signature`, as the members get them."""
        found = self._send("GET", f"/networks/{part(network)}/map").json()
        assert isinstance(found, dict)
        return found

    # templates of networks

    def template_list(self) -> list[templates.Template]:
        return list(self._all("/templates", templates.Template))

    def template_show(self, name: str) -> templates.Template:
        return self._get(f"/templates/{part(name)}", templates.Template)

    def template_create(self, wish: templates.TemplateCreate) -> templates.Template:
        return self._post("/templates", templates.Template, wish)

    def template_put(self, name: str, wish: templates.TemplatePut) -> templates.Template:
        return parse(self._send("PUT", f"/templates/{part(name)}", wish), templates.Template)

    def template_delete(self, name: str) -> None:
        self._send("DELETE", f"/templates/{part(name)}")

    # invites

    def invite_create(self, network: str, wish: api.InviteCreate) -> api.InviteCreated:
        return self._post(f"/networks/{part(network)}/invites", api.InviteCreated, wish)

    def invite_list(self, network: str) -> list[api.Invite]:
        return list(self._all(f"/networks/{part(network)}/invites", api.Invite))

    def code_show(self, network: str) -> api.InvitationCode:
        return self._get(f"/networks/{part(network)}/code", api.InvitationCode)

    def code_regenerate(self, network: str) -> api.InvitationCode:
        return parse(self._send("POST", f"/networks/{part(network)}/code"), api.InvitationCode)

    def invite_revoke(self, network: str, invite_id: str) -> None:
        self._send("DELETE", f"/networks/{part(network)}/invites/{part(invite_id)}")

    # clients: `client` is a name, an overlay address or an id

    def client_list(self, network: str, state: str | None = None) -> list[api.Client]:
        return list(self._all(f"/networks/{part(network)}/clients", api.Client, api.ClientList, state=state))

    def client_show(self, network: str, client: str) -> api.Client:
        return self._get(_client_path(network, client), api.Client)

    def client_register(self, network: str, wish: api.ClientRegister) -> api.ClientRegistered:
        return self._post(f"/networks/{part(network)}/clients", api.ClientRegistered, wish)

    def peer_show(self, network: str, peer: str) -> api.Peer:
        return self._get(f"/networks/{part(network)}/peers/{part(peer)}", api.Peer)

    def client_approve(self, network: str, client: str) -> api.Client:
        return self._post(_client_path(network, client) + "/approve", api.Client)

    def client_declare_plain(self, network: str, client: str) -> api.Client:
        return parse(
            self._send("POST", f"/networks/{part(network)}/clients/{part(client)}/plain-wireguard"), api.Client
        )

    def client_plain_configuration(self, network: str, client: str) -> api.PlainConfiguration:
        return self._get(f"/networks/{part(network)}/clients/{part(client)}/plain-wireguard", api.PlainConfiguration)

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
        return parse(self._send("PATCH", _client_path(network, client), body), api.Client)

    def client_remove(self, network: str, client: str) -> None:
        self._send("DELETE", _client_path(network, client))

    # how clients are connected

    def log(
        self,
        network: str,
        *,
        after: int = 0,
        client: str | None = None,
        peer: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        event_type: str | None = None,
        source: str | None = None,
    ) -> Iterator[connectivity.ConnectionLog]:
        """Lines after that number, oldest first. With client and peer, as either told."""
        return self._all(
            f"/networks/{part(network)}/logs",
            connectivity.ConnectionLog,
            cursor=str(after),
            client=client,
            peer=peer,
            since=None if since is None else since.isoformat(),
            until=None if until is None else until.isoformat(),
            type=event_type,
            source=source,
        )

    def topology(self, network: str, client: str | None = None) -> connectivity.Topology:
        """Of the whole network; around this client alone."""
        return self._get(f"/networks/{part(network)}/topology", connectivity.Topology, client=client)

    # devices: `device` is its id, or a client's id, name, NAME@NETWORK or address

    def device_list(self) -> list[api.Device]:
        return list(self._all("/devices", api.Device))

    def device_show(self, device: str) -> api.Device:
        return self._get(f"/devices/{part(device)}", api.Device)

    def device_remove(self, device: str) -> api.Device:
        """Out of all networks in which one may remove it. Returns it as it was."""
        return parse(self._send("DELETE", f"/devices/{part(device)}"), api.Device)

    # members

    def member_list(self, network: str) -> list[api.NetworkMember]:
        return list(self._all(f"/networks/{part(network)}/members", api.NetworkMember))

    def member_set(self, network: str, wish: api.MemberPut) -> api.NetworkMember:
        return parse(self._send("PUT", f"/networks/{part(network)}/members", wish), api.NetworkMember)

    def member_remove(self, network: str, user: str) -> None:
        self._send("DELETE", f"/networks/{part(network)}/members/{part(user)}")

    # relays

    def relay_token(self, wish: api.RelayTokenCreate | None = None) -> api.RelayTokenCreated:
        return self._post("/relays/tokens", api.RelayTokenCreated, wish or api.RelayTokenCreate())

    def relay_tokens(self) -> list[api.RelayToken]:
        return list(self._all("/relays/tokens", api.RelayToken))

    def relay_token_revoke(self, token: str) -> None:
        self._send("DELETE", f"/relays/tokens/{part(token)}")

    def relay_list(self) -> list[api.Relay]:
        return list(self._all("/relays", api.Relay))

    def relay_drain(self, relay: str, *, draining: bool = True) -> api.Relay:
        return self._post(f"/relays/{part(relay)}/{'drain' if draining else 'undrain'}", api.Relay)

    def relay_remove(self, relay: str) -> None:
        self._send("DELETE", f"/relays/{part(relay)}")

    # nodes

    def node_list(self) -> list[api.ControllerNode]:
        return list(self._all("/nodes", api.ControllerNode))

    def node_drain(self, node: str, *, draining: bool = True) -> api.ControllerNode:
        return self._post(f"/nodes/{part(node)}/{'drain' if draining else 'undrain'}", api.ControllerNode)

    # audit and events

    def audit_list(
        self, *, since: datetime | None = None, until: datetime | None = None, after: int = 0
    ) -> Iterator[api.AuditEntry]:
        """The entries of this time after that number, oldest first."""
        begin, end = (None if at is None else at.isoformat() for at in (since, until))
        return self._all("/audit", api.AuditEntry, cursor=str(after), since=begin, until=end)

    def audit_verify(self) -> api.AuditVerdict:
        return self._get("/audit/verify", api.AuditVerdict)

    def events(self, since: int = 0, network: str | None = None) -> list[api.Event]:
        """What happened after number `since`, at most 500 of it."""
        return self._get("/events", api.Page[api.Event], cursor=str(since), network=network).items


def https_client(url: str, token: str, tls: ssl.SSLContext) -> httpx.Client:
    import httpx

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=headers, verify=tls, timeout=_TIMEOUT, trust_env=False)


def _client_path(network: str, client: str) -> str:
    return f"/networks/{part(network)}/clients/{part(client)}"
