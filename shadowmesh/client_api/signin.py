"""Signing in to a controller, and out again: what later commands use is kept (`client_api.logins`)."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from shadowmesh import __version__
from shadowmesh.client_api import logins
from shadowmesh.client_api.logins import SavedLogin
from shadowmesh.client_api.peoplecalls import parse
from shadowmesh.client_api.rest import ControllerClient, https_client
from shadowmesh.model import accounts, api
from shadowmesh.model.codec import to_json
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.text import canonical_email, safe_part

if TYPE_CHECKING:
    from shadowmesh.client_api.contact import Contact


def login(
    contact: Contact,
    *,
    token: str | None = None,
    email: str | None = None,
    password: str | None = None,
    new_password: str | None = None,
    code: str | None = None,
    beside: bool = False,
) -> accounts.WhoAmI:
    """Signs in with an API key, or with address and password, and keeps it for `ControllerClient.saved`. `beside`: what commands
    are signed in to stays what it is."""
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
            "code": code,
            "device_token": logins.device_token(device),
            "client_name": _this_program(),
        }
        with ControllerClient(https_client(contact.url, "", contact.tls), contact.url) as client:
            session = parse(client._send("POST", "/auth/login", wish), accounts.Session)
        if session.device_token is not None:
            with logins.locked():
                logins.keep_device_token(device, session.device_token)
        token, refresh = session.access_token, session.refresh_token
    return _keep(contact, token, refresh, beside=beside)


def sign_up(contact: Contact, email: str) -> accounts.SignUpTaken:
    """Asks for an account; a mail with an invitation says how to go on."""
    with ControllerClient(https_client(contact.url, "", contact.tls), contact.url) as client:
        return parse(client._send("POST", "/auth/signup", {"email": email}), accounts.SignUpTaken)


def accept_invitation(contact: Contact, invitation: str, password: str) -> accounts.WhoAmI:
    """Becomes a user by an invitation, with this password, and is signed in from then on."""
    wish = {"token": invitation, "password": password, "client_name": _this_program()}
    with ControllerClient(https_client(contact.url, "", contact.tls), contact.url) as client:
        session = parse(client._send("POST", "/auth/accept-invitation", wish), accounts.Session)
    return _keep(contact, session.access_token, session.refresh_token)


def _keep(contact: Contact, token: str, refresh: str | None, *, beside: bool = False) -> accounts.WhoAmI:
    """For later commands; who it is that is signed in."""
    with ControllerClient(https_client(contact.url, token, contact.tls), contact.url) as client:
        who = client.whoami()
    identity = to_json(contact.identity).decode()
    with logins.locked():
        put = logins.keep_beside if beside else logins.keep
        put(SavedLogin(url=contact.url, token=token, refresh_token=refresh, identity=identity))
    return who


def _this_program() -> str:
    """What the session is called in lists."""
    return f"shadowmesh {__version__} on {safe_part(socket.gethostname())}"[:100]


def logout(url: str | None = None) -> None:
    """Forgets the kept login, or that to the controller of this URL, and tells the controller if it can be reached."""
    if (not logins.login_path().exists()) if url is None else (logins.find(url) is None):
        return
    import httpx

    with logins.locked():
        with (
            suppress(ShadowMeshError, httpx.HTTPError),
            ControllerClient.saved(url) as client,
        ):  # else it runs out by itself
            token = client._login.refresh_token if client._login is not None else None
            if token is not None:
                client._client.request("POST", f"{api.API}/auth/logout", json={"refresh_token": token})
        logins.forget(url)
