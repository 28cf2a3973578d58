"""What a person is told when the way to the controller isn't as it should be."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from freeport import free_port
from relay_certificate import self_signed

from shadowmesh.client_api.contact import first_contact, tls_context, unreachable
from shadowmesh.client_api.localhttp import SOCKET_NAME, LocalHttp
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.protocol.signing import IdentityDocument, Signer

if TYPE_CHECKING:
    from tests.controller.conftest import World


@pytest.fixture
async def proxy(world: World, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a reverse proxy that ends TLS with a certificate of its own."""
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    inside.check_hostname, inside.verify_mode = False, ssl.CERT_NONE
    outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    outside.load_cert_chain(*self_signed(ec.generate_private_key(ec.SECP256R1()), tmp_path))
    controller = int(world.url.rpartition(":")[2])

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", controller, ssl=inside)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer), return_exceptions=True)
        writer.close()
        there[1].close()

    port = free_port()
    async with await asyncio.start_server(serve, "127.0.0.1", port, ssl=outside):
        yield f"https://127.0.0.1:{port}"


async def test_a_reverse_proxy_that_ends_tls_is_named_as_what_it_is(world: World, proxy: str) -> None:
    contact = await asyncio.to_thread(first_contact, proxy, world.fingerprint)
    assert contact.identity.identity.fingerprint == world.fingerprint, "the identity proves itself"

    def use() -> None:
        with ControllerClient.remote(proxy, world.first.api_key, world.fingerprint) as client:
            client.whoami()

    with pytest.raises(ShadowMeshError) as caught:
        await asyncio.to_thread(use)
    assert (caught.value.code, caught.value.kind) == ("certificate_refused", Kind.UNREACHABLE)
    assert "another certificate" in caught.value.what
    assert "pass TLS through" in caught.value.remedy and "--tls-cert" in caught.value.remedy


def test_a_url_that_the_certificate_does_not_name_is_told_as_such() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 64, "IP address mismatch"
    told = unreachable("https://192.0.2.1:8443", error)
    assert "of another name" in told.what and "public URLs" in told.remedy


def test_what_the_system_said_is_told_and_not_the_address_once_more() -> None:
    error = OSError(errno.EHOSTUNREACH, "Connect call failed ('192.0.2.1', 8443)")  # as asyncio words it
    assert "(no route to host)" in unreachable("https://192.0.2.1:8443", error).what


def test_a_connection_that_the_controller_ended_while_idle_is_made_anew(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / SOCKET_NAME))
        listening.listen()

        def answer_once_each() -> None:
            for _ in range(2):
                accepted, _ = listening.accept()
                with accepted:
                    accepted.recv(65536)
                    accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        answering = threading.Thread(target=answer_once_each, daemon=True)
        answering.start()
        local = LocalHttp(tmp_path, 5.0)
        assert local.request("GET", "/").content == b"{}"
        time.sleep(0.2)  # a person thinks, the controller hangs up
        assert local.request("DELETE", "/").is_success
        local.close()
        answering.join()


@pytest.mark.parametrize("ca", ["x", "\u9636", "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"])
def test_an_identity_whose_certificates_are_none_is_malformed_and_nothing_else(ca: str) -> None:
    key = Signer.generate()
    identity = IdentityDocument(identity=key.public, ca_pem=ca, signing_keys=(key.public,), urls=())
    with pytest.raises(MalformedError, match="no readable certificate"):
        tls_context(identity)
