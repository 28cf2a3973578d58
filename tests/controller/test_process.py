"""The controller as a process: init, run, signals, kill −9, and what keeps it from starting."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from freeport import free_port

from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.controller.edge.problems import of_error
from shadowmesh.controller.initialise import InitOptions, InitResult, export_secrets, init
from shadowmesh.controller.run import RunOptions, run
from shadowmesh.controller.store.database import StorageFailed
from shadowmesh.model.api import InviteCreate, NetworkCreate
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    Starter = Callable[..., subprocess.Popen[str]]

RUN = """
import sys
from pathlib import Path
from shadowmesh.controller.run import RunOptions, run
from shadowmesh.model.errors import ShadowMeshError
try:
    run(RunOptions(Path(sys.argv[1]), listen=sys.argv[2], ready=lambda: print("ready", flush=True)))
except ShadowMeshError as e:
    print(e.code, flush=True)
"""


@pytest.fixture
def start() -> Iterator[Starter]:
    """Starts a controller process and waits until it is ready."""
    running: list[subprocess.Popen[str]] = []

    def go(data_dir: Path, port: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(data_dir), f"127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline().strip()
        if line != "ready":
            process.kill()
            raise AssertionError((line, process.communicate()[1]))
        return process

    yield go
    for process in running:
        process.kill()
        process.communicate()


def test_init_tells_what_the_contract_says_and_keeps_it_private(template: tuple[Path, InitResult]) -> None:
    path, result = template
    assert result.admin_email and len(result.admin_password) >= 16 and result.api_key.startswith("sk_")
    assert result.fingerprint.startswith("sha256:") and len(result.fingerprint) == 71
    assert result.public_urls == ("https://127.0.0.1:18443",)
    assert result.admin_password not in repr(result) and result.api_key not in repr(result)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for file in path.rglob("*"):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file
    raw = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert result.admin_password.encode() not in raw and result.api_key.encode() not in raw


def test_init_refuses_to_overwrite(template: tuple[Path, InitResult]) -> None:
    path, _ = template
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    with pytest.raises(ShadowMeshError) as caught:
        init(InitOptions(path, ("https://192.0.2.1:8443",)))
    assert (caught.value.code, caught.value.kind) == ("already_initialized", Kind.CONFLICT)
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file()} == before


def test_init_refuses_what_is_wrong_and_leaves_nothing(template: tuple[Path, InitResult], tmp_path: Path) -> None:
    where, good = tmp_path / "c", ("https://192.0.2.1:8443",)
    secrets = tmp_path / "secrets"
    secrets.write_bytes(export_secrets(template[0]))
    bad = tmp_path / "bad.pem"
    bad.write_text("nonsense")
    for options, code in (
        (InitOptions(where, ()), "bad_public_url"),
        (InitOptions(where, ("http://x",)), "bad_public_url"),
        (InitOptions(where, ("https://x/path",)), "bad_public_url"),
        (InitOptions(where, ("https://x:99999",)), "bad_public_url"),
        (InitOptions(where, good, listen="nowhere"), "bad_listen"),
        (InitOptions(where, good, listen="0.0.0.0:65535"), "bad_listen"),  # there is no next one, for STUN
        (InitOptions(where, good, database_url="mysql://x"), "bad_database_url"),
        (InitOptions(where, good, tls_cert=bad), "bad_certificate"),
        (InitOptions(where, good, tls_cert=bad, tls_key=bad), "bad_certificate"),
        (InitOptions(where, good, join_secrets=bad), "bad_secrets"),
        (InitOptions(where, good, join_secrets=secrets), "no_database"),  # it would be a second one of this identity
        (InitOptions(bad / "below", good), "cannot_write"),
    ):
        with pytest.raises(ShadowMeshError) as caught:
            init(options)
        assert caught.value.code == code
        assert not where.exists() or not list(where.iterdir())


def test_a_second_node_starts_from_the_first_ones_secrets(template: tuple[Path, InitResult], tmp_path: Path) -> None:
    path, result = template
    secrets = tmp_path / "secrets.json"
    secrets.write_bytes(export_secrets(path))
    shutil.copy(path / "controller.db", tmp_path / "shared.db")
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    second = init(InitOptions(tmp_path / "second", ("https://192.0.2.2:8443",), database_url=url, join_secrets=secrets))
    assert second.fingerprint == result.fingerprint and second.admin_password == second.api_key == ""
    with pytest.raises(ShadowMeshError) as caught:
        init(InitOptions(tmp_path / "third", ("https://192.0.2.3:8443",), database_url=url))
    assert caught.value.code == "database_in_use"


def test_a_database_that_nobody_is_let_into_says_what_to_correct() -> None:
    said = {
        'FATAL: database "x" does not exist': "make it",
        'FATAL: password authentication failed for user "x"': "correct user and password",
        "connection failed: Connection refused": "see that it runs",
        "something else": "see the controller's log",
    }
    for cause, remedy in said.items():
        assert remedy in StorageFailed(Exception(cause)).remedy
        told = json.loads(bytes(of_error(StorageFailed(Exception(cause))).body))
        assert told["remedy"] == "see the controller's log" and cause not in told["detail"], "not told to everybody"


def test_an_operators_own_certificate_is_served_and_trusted(
    template: tuple[Path, InitResult], tmp_path: Path, start: Starter
) -> None:
    given = tmp_path / "own.pem"
    shutil.copy(template[0] / "server.pem", given)  # key and chain in one file
    where = tmp_path / "controller"
    port = free_port()
    result = init(InitOptions(where, (f"https://127.0.0.1:{port}",), tls_cert=given, tls_key=given))
    assert not (where / "server.pem").exists()
    start(where, port)
    contact = first_contact(f"https://127.0.0.1:{port}", result.fingerprint)
    assert httpx.get(contact.url + "/healthz", verify=contact.tls, trust_env=False).status_code == 200


def test_what_keeps_it_from_starting_is_one_code(data_dir: Path, tmp_path: Path, start: Starter) -> None:
    port = free_port()
    second = tmp_path / "second"
    shutil.copytree(data_dir, second)

    def refused(where: Path, number: int = port) -> tuple[str, int]:
        with pytest.raises(ShadowMeshError) as caught:
            run(RunOptions(where, listen=f"127.0.0.1:{number}"))
        assert "\n" not in str(caught.value)
        return caught.value.code, caught.value.kind.value

    start(data_dir, port)
    assert refused(second) == ("port_taken", 6)
    assert refused(data_dir, free_port()) == ("already_running", 6)
    number = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", number + 1))
        assert refused(second, number) == ("port_taken", 6)
    assert refused(tmp_path / "none") == ("not_initialized", 5)
    with contextlib.closing(sqlite3.connect(second / "controller.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'later'")
        database.commit()
    assert refused(second) == ("database_newer", 1)
    for left in (b"", b"\0", b"S" * 100):
        (second / "controller.db").write_bytes(left)
        assert refused(second) == ("database_damaged", 1)
        assert (second / "controller.db").read_bytes() == left, "it isn't made anew"
    (second / "controller.db").unlink()
    with contextlib.closing(sqlite3.connect(second / "controller.db")) as database:
        database.execute("CREATE TABLE other (a)")
    assert refused(second) == ("database_damaged", 1)
    with contextlib.closing(sqlite3.connect(second / "controller.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]
    (second / "controller.db").unlink()
    assert refused(second) == ("database_missing", 1)
    (second / "keys" / "identity.key").write_text("x")
    assert refused(second) == ("unreadable_keys", 1)
    (second / "controller.json").write_text("{")
    assert refused(second) == ("unreadable_config", 1)


def test_sigterm_ends_it_cleanly_and_a_long_path_has_its_socket(data_dir: Path, tmp_path: Path, start: Starter) -> None:
    deep = tmp_path / ("d" * 120) / "controller"
    shutil.copytree(data_dir, deep)
    process = start(deep, free_port())
    assert stat.S_IMODE((deep / "controller.sock").stat().st_mode) == 0o600
    with ControllerClient.local(deep) as client:
        assert client.whoami().name == "local"
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert time.monotonic() - started < 3
        with pytest.raises(ShadowMeshError) as caught:
            client.whoami()
        assert caught.value.kind is Kind.UNREACHABLE
    assert not (deep / "controller.sock").exists()


_UPGRADE = (
    b"GET /api/v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"  # 1000, masked by zeros


@pytest.mark.parametrize("closing", [False, True], ids=["says nothing more", "began to close"])
def test_links_whose_other_side_neither_reads_nor_closes_keep_no_controller_from_its_end(
    data_dir: Path, start: Starter, closing: bool
) -> None:
    port = free_port()
    process = start(data_dir, port)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as links:
        for _ in range(5):
            raw = links.enter_context(socket.create_connection(("127.0.0.1", port)))
            link = links.enter_context(context.wrap_socket(raw))
            link.sendall(_UPGRADE)
            assert b" 101 " in link.recv(4096)
            assert link.recv(4096), "a challenge"
            if closing:
                link.sendall(_CLOSE)
                assert link.recv(4096), "its close frame; TLS waits for ours to end"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_second_sigterm_ends_it_at_once(data_dir: Path, start: Starter) -> None:
    port = free_port()
    process = start(data_dir, port)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as link:
        link.sendall(_UPGRADE)
        assert b" 101 " in link.recv(4096)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)  # it waits for the link's end, a few seconds
        process.send_signal(signal.SIGTERM)
        assert process.wait(1.0) == -signal.SIGTERM


def test_kill_9_loses_nothing_that_was_answered(data_dir: Path, start: Starter) -> None:
    answered: list[str] = []
    port = free_port()
    for round_ in range(2):
        process = start(data_dir, port)
        with ControllerClient.local(data_dir) as client:
            assert {n.name for n in client.network_list()} >= set(answered)
            with contextlib.suppress(ShadowMeshError):
                for i in range(1000):
                    if i == 8:  # in the midst of what comes next, wherever that is
                        threading.Timer(0.012 + 0.007 * round_, os.kill, (process.pid, signal.SIGKILL)).start()
                    name = f"n{round_}-{i}"
                    client.network_create(NetworkCreate(name=name, subnet="10.0.0.0/24"))
                    answered.append(name)
                    client.invite_create(name, InviteCreate())
        process.wait()
    start(data_dir, port)
    with ControllerClient.local(data_dir) as client:
        assert len(answered) >= 16 and {n.name for n in client.network_list()} >= set(answered)
        assert client.audit_verify().ok


def test_certificates_start_in_the_past_and_renew_in_place(template: tuple[Path, InitResult], tmp_path: Path) -> None:
    import datetime as dt

    from cryptography import x509

    from shadowmesh.controller import pki
    from shadowmesh.controller.settings import Settings

    now = dt.datetime.now(dt.UTC)
    for name in ("ca.pem", "ca.key", "server.pem"):
        shutil.copy(template[0] / name, tmp_path / name)
    same = Settings(public_urls=template[1].public_urls, listen="127.0.0.1:18443")
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    assert now - certificate.not_valid_before_utc > dt.timedelta(hours=47)
    assert not pki.needs_renewal(tmp_path, same, now)
    assert pki.needs_renewal(tmp_path, same, now + dt.timedelta(days=61))
    more = Settings(public_urls=("https://vpn.example:443", "https://[2001:db8::1]:8443"), listen="127.0.0.1:18443")
    assert pki.needs_renewal(tmp_path, more, now), "a name that it lacks"
    pki.make_server_certificate(tmp_path, more, now)
    assert not pki.needs_renewal(tmp_path, more, now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.load_verify_locations(tmp_path / "ca.pem")
    server = pki.server_context(tmp_path, more)
    for name in ("vpn.example", "2001:db8::1", "127.0.0.1"):
        _handshake(context, server, name)


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    done: set[int] = set()
    for _ in range(6):
        for i, end in enumerate(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                done.add(i)
    assert done == {0, 1}


def test_exported_secrets_are_whole(template: tuple[Path, InitResult]) -> None:
    bundle = json.loads(export_secrets(template[0]))
    names = {"identity", "map-signing", "token-signing", "session-signing", "audit-signing", "secrets"}
    assert set(bundle["keys"]) == names
