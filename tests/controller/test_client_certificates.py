"""Certificates of the controller's authority sign in as the API key that they stand for, for as long as that is good."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from people import Person, person

from shadowmesh.client_api.clientcertificate import new_key, signing_request
from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller import pki
from shadowmesh.model import accounts
from shadowmesh.model.clock import utc_now
from shadowmesh.model.keys import Secret

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def made(who: Person, **wish: Any) -> dict[str, Any]:
    answer = await who.ask("POST", "/api-keys", wish)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def certified(who: Person, key: dict[str, Any], directory: Path, csr: str | None = None) -> tuple[Path, Path]:
    private = new_key()
    answer = await who.ask("POST", f"/api-keys/{key['id']}/certificate", {"csr": csr or signing_request(private)})
    assert answer.status_code == 201, answer.text
    (directory / "client.crt").write_text(answer.json()["certificate"])
    (directory / "client.key").write_bytes(private.reveal())
    return directory / "client.crt", directory / "client.key"


async def ask(world: World, files: tuple[Path, Path], method: str, path: str, **more: Any) -> httpx.Response:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    contact.tls.load_cert_chain(*files)
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, trust_env=False, timeout=20) as client:
        return await client.request(method, f"/api/v1{path}", **more)


async def test_a_certificate_may_what_its_key_may(world: World, tmp_path: Path) -> None:
    await world.network()
    olga = await person(world, "olga", {"office": "owner"})
    files = await certified(olga, await made(olga, name="m", scopes=["client.register"]), tmp_path)
    who = await ask(world, files, "GET", "/whoami")
    assert (who.status_code, who.json()["name"]) == (200, "olga@example.org by m")
    assert (await ask(world, files, "POST", "/networks/office/invites", json={"uses": 1})).status_code == 201
    assert (await ask(world, files, "DELETE", "/networks/office")).status_code == 403
    entries = await world.call("audit_list")
    assert [e.actor for e in entries if e.action == "invite.create"][-1] == "olga@example.org by m"


async def test_a_token_that_is_given_counts_and_not_the_certificate(world: World, tmp_path: Path) -> None:
    anna, bob = await person(world, "anna"), await person(world, "bob")
    files = await certified(anna, await made(anna), tmp_path)
    headers = {"Authorization": f"Bearer {bob.token}"}
    assert (await ask(world, files, "GET", "/whoami", headers=headers)).json()["name"] == "bob@example.org"
    assert (await ask(world, files, "GET", "/whoami", headers={"Authorization": "Bearer x"})).status_code == 401


@pytest.mark.parametrize("end", ["revoked", "disabled", "expired"])
async def test_it_ends_with_its_key(world: World, tmp_path: Path, end: str) -> None:
    anna = await person(world, "anna")
    key = await made(anna, **({"expires_in": 3600} if end == "expired" else {}))
    files = await certified(anna, key, tmp_path)
    assert (await ask(world, files, "GET", "/whoami")).status_code == 200
    if end == "revoked":
        await world.call("api_key_revoke", key["id"])
    elif end == "disabled":
        await world.call("user_set", "anna@example.org", accounts.UserPatch(disabled=True))
    else:
        world.clock.advance(seconds=3601)
    answer = await ask(world, files, "GET", "/whoami")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in")


async def test_a_certificate_ends_no_later_than_its_key_and_after_ninety_days(world: World, tmp_path: Path) -> None:
    anna = await person(world, "anna")
    for wish, days in (({"expires_in": 86400}, 1), ({}, 90)):
        cert, _ = await certified(anna, await made(anna, **wish), tmp_path)
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        assert abs((found.not_valid_after_utc - world.clock()).total_seconds() - days * 86400) < 60
        assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


async def test_it_renews_itself_and_no_other(world: World, tmp_path: Path) -> None:
    anna = await person(world, "anna")
    key, other = await made(anna, scopes=["client.register"]), await made(anna)
    files = await certified(anna, key, tmp_path)
    csr = signing_request(Secret(files[1].read_bytes()))
    assert (await ask(world, files, "POST", f"/api-keys/{key['id']}/certificate", json={"csr": csr})).status_code == 201
    answer = await ask(world, files, "POST", f"/api-keys/{other['id']}/certificate", json={"csr": csr})
    assert (answer.status_code, answer.json()["code"]) == (404, "api_key_unknown")


async def test_a_key_gets_none_for_another_key_that_it_did_not_make(world: World) -> None:
    """What was shown may be revoked: a certificate of another key would outlive it."""
    anna = await person(world, "anna")
    shown, other = await made(anna), await made(anna)
    mine = (await anna.ask("POST", "/api-keys", {}, token=shown["key"])).json()
    for key, status in ((shown, 201), (mine, 201), (other, 404)):
        wish = {"csr": signing_request(new_key())}
        answer = await anna.ask("POST", f"/api-keys/{key['id']}/certificate", wish, token=shown["key"])
        assert answer.status_code == status, answer.text


async def test_an_administrator_gets_none_for_a_persons_key(world: World) -> None:
    anna, root = await person(world, "anna"), await person(world, "root", admin=True)
    await world.call("user_create", accounts.UserCreate(email="robot@example.org", kind="service"))
    service = (await root.ask("POST", "/api-keys", {"user": "robot@example.org"})).json()
    for key, status in ((await made(anna), 404), (await made(root), 201), (service, 201)):
        wish = {"csr": signing_request(new_key())}
        answer = await root.ask("POST", f"/api-keys/{key['id']}/certificate", wish)
        assert answer.status_code == status, answer.text


async def test_another_sites_page_cant_use_it(world: World, tmp_path: Path) -> None:
    anna = await person(world, "anna")
    files = await certified(anna, await made(anna), tmp_path)
    for origin, status in (("https://evil.example", 401), ("null", 401), (world.url, 200)):
        answer = await ask(world, files, "GET", "/whoami", headers={"Origin": origin})
        assert answer.status_code == status or (status == 401 and answer.status_code == 403), origin


async def test_a_certificate_of_another_authority_gets_nobody_in(world: World, tmp_path: Path) -> None:
    """Not even one with the same names: TLS refuses it."""
    from shadowmesh.controller.clientcerts import ClientAuthority

    anna = await person(world, "anna")
    key = await made(anna)
    (tmp_path / "ca").mkdir()
    pki.make_authority(tmp_path / "ca", world.fingerprint, utc_now())
    private = new_key()
    text, _ = ClientAuthority(tmp_path / "ca").issue(signing_request(private), f"api-key:{key['id']}", utc_now(), None)
    (tmp_path / "c.crt").write_text(text)
    (tmp_path / "c.key").write_bytes(private.reveal())
    with pytest.raises((httpx.HTTPError, ssl.SSLError)):
        await ask(world, (tmp_path / "c.crt", tmp_path / "c.key"), "GET", "/whoami")


async def test_the_controllers_own_certificate_is_none_of_a_clients(world: World) -> None:
    server = world.data_dir / "server.pem"
    with pytest.raises((httpx.HTTPError, ssl.SSLError)):
        await ask(world, (server, server), "GET", "/whoami")


async def test_a_request_that_is_none_is_refused(world: World) -> None:
    anna = await person(world, "anna")
    key = await made(anna)
    weak = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(weak, hashes.SHA256())
    good = signing_request(new_key())
    for csr in ("", "x", good[:-40], request.public_bytes(serialization.Encoding.PEM).decode()):
        answer = await anna.ask("POST", f"/api-keys/{key['id']}/certificate", {"csr": csr})
        assert answer.status_code == 422, csr
