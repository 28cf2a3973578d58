"""No secret of a run is in a log, in the arguments or environment of a process, or in a file that others may read.

The run is a demo's with some more: rotation, a restart, an API key, a sign-in with a password, an export, invites that
are refused. All roles log with --debug. Every secret that it made is looked for in all its forms.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import meshkit
import pytest

from shadowmesh.client_api.local import DaemonClient
from shadowmesh.lab import netns
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import NETWORK, RELAY_PORT, World, write_secret
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.invite import Invite
from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey
from shadowmesh.protocol.noise import public_key
from shadowmesh.protocol.psk import derive_psk

pytestmark = pytest.mark.lab
T = TypeVar("T")
NOBODY = 65534
# commands whose purpose is to print a secret, once
TELLS = (("controller", "init"), ("network", "invite"), ("relay", "token"), ("api-key", "create"), ("export", "wireguard"),
         ("user", "add"), ("user", "reset-password"))  # fmt: skip


class Recorder(World):
    """A world that keeps what all commands said, and whose roles tell all that they have to tell."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.said: list[tuple[str, str]] = []

    def run(self, host: str, *arguments: str, **options: Any) -> Any:
        done = super().run(host, *arguments, **options)
        if arguments[:2] not in TELLS:
            self.said.append((f"`{' '.join(arguments)}` on {host}", done.stdout + done.stderr))
        return done

    def _start(self, host: str, *arguments: str) -> None:
        super()._start(host, *arguments, "--debug")


class Watch(threading.Thread):
    """Keeps the arguments and environment of every process that was seen in a lab."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._namespaces = namespaces
        self._stop_it = threading.Event()
        self.seen: dict[tuple[str, bytes], int] = {}

    def run(self) -> None:
        while not self._stop_it.wait(0.03):
            for pid in netns.processes(self._namespaces):
                for what in ("cmdline", "environ"):
                    with suppress(OSError):
                        self.seen[what, Path(f"/proc/{pid}/{what}").read_bytes()] = pid

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


@dataclass
class Run:
    world: Recorder
    watch: Watch
    secrets: dict[str, str | bytes] = field(default_factory=dict)
    forms: dict[bytes, str] = field(default_factory=dict)  # what to look for → what it is

    @property
    def directory(self) -> Path:
        lab = self.world.lab
        return Path(lab.state.directory, lab.id)

    def found_in(self, data: bytes) -> list[str]:
        return sorted({name for form, name in self.forms.items() if form in data})


def forms_of(secret: str | bytes) -> set[bytes]:
    """A secret as it is, and in the forms in which keys get written."""
    raw = secret.encode() if isinstance(secret, str) else secret
    if isinstance(secret, str):
        return {raw, base64.b64encode(raw).rstrip(b"=")[:-1]}
    b64 = base64.b64encode(raw)
    escaped = repr(raw)[2:-1].encode()  # as a log of Python values would have it
    return {raw, b64.rstrip(b"="), b64.translate(bytes.maketrans(b"+/", b"-_")).rstrip(b"="), raw.hex().encode(),
            raw.hex().upper().encode(), escaped}  # fmt: skip


def tables(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def of_a_client(host: str, state: Path) -> dict[str, str | bytes]:
    """What a daemon keeps to itself."""
    path = state / "state.db"
    found: dict[str, str | bytes] = {}
    for (key,) in tables(path, "SELECT private_key FROM device"):
        found[f"device key of {host}"] = key
    for wg, sealing, token in tables(path, "SELECT wg_private, sealing_private, relay_token FROM networks"):
        found |= {f"WireGuard key of {host}": wg, f"sealing key of {host}": sealing, f"relay token of {host}": token}
    for epoch, key in tables(path, "SELECT epoch, key FROM epoch_keys"):
        found[f"network key {epoch}"] = key
    return found


def of_a_controller(data: Path) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for path in (data / "keys").iterdir():
        found[f"controller's {path.name}"] = base64.b64decode(path.read_bytes())
    for name in ("ca.key", "server.pem"):
        (block,) = re.findall(r"BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)\n-----END", (data / name).read_text(), re.DOTALL)
        found[f"controller's {name}"] = base64.b64decode(block)
        found |= {f"controller's {name}, line {n}": line for n, line in enumerate(block.splitlines())}
    return found


def preshared(world: World, hosts: Sequence[str], found: dict[str, str | bytes]) -> dict[str, str | bytes]:
    (network,) = world.status(hosts[0]).networks
    publics: dict[str, WireGuardPublicKey] = {}
    for host in hosts:
        private = found[f"WireGuard key of {host}"]
        assert isinstance(private, bytes)
        publics[host] = public_key(Secret(private))
    psks: dict[str, str | bytes] = {}
    for name, key in found.items():
        if name.startswith("network key") and isinstance(key, bytes):
            epoch = int(name.split()[-1])
            for i, a in enumerate(hosts):
                for b in hosts[i + 1 :]:
                    psk = derive_psk(Secret(key), NetworkID.parse(network.network_id), epoch, publics[a], publics[b])
                    psks[f"preshared key of {a} and {b}, {epoch}"] = psk.reveal()
    return psks


@pytest.fixture(scope="module")
def run(module_lab_factory) -> Iterator[Run]:
    """The run, with its roles still up."""
    sites = (SiteSpec(), SiteSpec(nat=NatType.PORT_RESTRICTED), SiteSpec(nat=NatType.SYMMETRIC))
    lab = module_lab_factory(LabSpec(sites=sites, relays=1, controllers=1, public=1))
    world = Recorder(lab)
    watch = Watch(lab.state.namespaces())
    watch.start()
    hosts = ["h1", "h2", "h3"]
    made = Run(world, watch)
    try:
        _live(world, hosts)
        time.sleep(0.1)
        watch.stop()
        _collect(made, hosts)
        yield made
    finally:
        if watch.is_alive():
            watch.stop()


def _live(world: Recorder, hosts: list[str]) -> None:
    """All that leaves secrets about."""
    world.mesh(hosts)
    pairs = [("h1", "h2"), ("h1", "h3"), ("h2", "h3")]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda pair: meshkit.ping(world, *pair, count=2), pairs))
    home = world.lab.host("public1")
    _sign_in(world, home)
    world.manage("network", "rotate-key", NETWORK)
    for name in hosts:
        meshkit.why(world, name, next(h for h in hosts if h != name))
    # refused, with the invite in hand
    spent = world.invite()
    world.manage("network", "revoke-invite", NETWORK, Invite.decode(spent).invite_id)
    world.run("h1", "join", "-", stdin=spent, codes=(1, 4, 5, 6))
    world.run("h1", "join", "-", stdin=spent[:-4] + "AAAA", codes=(1, 2, 4, 5, 6))
    created = world.manage("network", "invite", NETWORK, "--uses", "1")
    world.secrets |= {"unused invite": created["invite"], "short code": created["code"]}
    world.manage("network", "invites", NETWORK)
    world.manage("client", "list", NETWORK)
    world.manage("audit", "list")
    world.stop("h2")  # and from disk again
    world.start_daemon("h2")
    for arguments in (("status", "--json"), ("peers", "--json"), ("status",), ("peers",), ("why", "h1")):
        world.run("h2", *arguments, codes=(0, 10, 20))


def _sign_in(world: Recorder, home: Any) -> None:
    """By API key and by password, from elsewhere."""
    made = world.manage("api-key", "create", "--name", "script")
    world.secrets["second api key"] = made["key"]
    environment = {**home.environment(), "HOME": str(home.directory)}
    url = world.controller_url()
    for secret, arguments in (
        (made["key"], ("--token", "-")),
        (world.secrets["admin password"], ("--email", "admin@localhost", "--password", "-", "--new-password", "@NEW")),
    ):
        new = write_secret(home.directory / "new-password", "a new pass phrase of 31 letters")
        words = [f"@{new}" if word == "@NEW" else word for word in arguments]
        done = home.exec(
            [*world.program, "login", url, "--fingerprint", world.fingerprint, *words],
            env=environment, input=f"{secret}\n", check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        world.said.append((f"login {words[0]}", done.stdout + done.stderr))
        listed = home.exec([*world.program, "network", "list", "--json"], env=environment, check=False)
        assert listed.returncode == 0, listed.stderr
        world.said.append(("network list", listed.stdout + listed.stderr))
        (kept,) = home.directory.rglob("login.json")
        saved = json.loads(kept.read_bytes())
        world.secrets |= {
            f"{field} of {words[0]}": saved[field] for field in ("token", "refresh_token") if saved[field]
        }
    world.secrets["new admin password"] = "a new pass phrase of 31 letters"


def _collect(made: Run, hosts: list[str]) -> None:
    world = made.world
    for host in hosts:
        made.secrets |= of_a_client(host, world.lab.host(host).state_directory)
    made.secrets |= of_a_controller(world.lab.host("controller1").state_directory)
    relay = world.lab.host("relay1").state_directory / "relay.key"
    made.secrets["key of relay1"] = bytes.fromhex(relay.read_text())
    made.secrets |= preshared(world, hosts, made.secrets)
    made.secrets |= world.secrets
    for name, text in world.secrets.items():
        if text.startswith("smi1_"):
            made.secrets[f"secret of {name}"] = Invite.decode(text).secret
    for name, secret in made.secrets.items():
        assert len(secret) >= 8, name
        for form in forms_of(secret):
            made.forms[form] = name


def test_the_run_made_every_kind_of_secret(run: Run) -> None:
    names = " ".join(run.secrets)
    for kind in (
        "admin password", "api key", "invite", "secret of invite", "token of relay1", "relay token of h1", "device key of h2",
        "WireGuard key of h3", "sealing key of h1", "network key 0", "network key 1", "preshared key of h1 and h2", "key of relay1",
        "controller's identity.key", "controller's secrets.key", "controller's ca.key", "short code", "new admin password",
    ):  # fmt: skip
        assert kind in names, kind
    for name, secret in run.secrets.items():  # and each is found where it is
        assert run.found_in(b"<" + (secret if isinstance(secret, bytes) else secret.encode()) + b">"), name


def test_no_log_tells_a_secret(run: Run) -> None:
    logs = list(run.directory.glob("*/log"))
    assert {log.parent.name for log in logs} == {"h1", "h2", "h3", "relay1", "controller1"}
    for log in logs:
        text = log.read_bytes()
        assert len(text) > 100, log
        assert run.found_in(text) == [], log


def test_no_command_repeats_a_secret(run: Run) -> None:
    assert len(run.world.said) > 20
    for what, text in run.world.said:
        assert run.found_in(text.encode()) == [], what


def test_no_process_shows_a_secret(run: Run) -> None:
    whats = [what for what, _ in run.watch.seen]
    assert whats.count("cmdline") > 20 and whats.count("environ") > 5
    assert any(b"shadowmesh.dataplane." in data for what, data in run.watch.seen if what == "cmdline")
    for (what, data), pid in run.watch.seen.items():
        assert run.found_in(data) == [], f"{what} of {pid}: {data[:200]!r}"


def test_files_with_secrets_are_their_owners_alone(run: Run) -> None:
    holding = set()
    for path in run.directory.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        found = run.found_in(path.read_bytes())
        mode = path.stat().st_mode & 0o777
        if found:
            holding.add(path.name)
            assert mode == 0o600, (path, oct(mode), found)
    assert {"state.db", "identity.key", "ca.key", "relay.key"} <= holding


def test_the_state_directory_lets_others_through_to_the_socket_only(run: Run) -> None:
    for host in ("h1", "h2", "h3"):
        directory = run.world.lab.host(host).state_directory
        assert directory.stat().st_mode & 0o777 == 0o711
        files = sorted(p.name for p in directory.iterdir())
        status, opened, refused = as_nobody(lambda d=directory, f=files: _look_around(d, f))
        assert opened == []
        assert status.networks[0].peers
        assert all(peer.endpoint is None for network in status.networks for peer in network.peers)
        assert status.nat.public is None
        assert refused == ["not_allowed"] * 5


def _look_around(directory: Path, files: list[str]) -> tuple[Any, list[str], list[str]]:
    client = DaemonClient(directory)
    opened = []
    for name in files:
        with suppress(OSError), (directory / name).open("rb"):
            opened.append(name)
    with suppress(OSError):
        opened += [path.name for path in directory.iterdir()]
    refused = []
    for method, params in (
        ("down", {}), ("leave", {"network": NETWORK}), ("why", {"peer": "h1"}), ("join", {"invite": "smi1_x"}),
        ("export_wireguard", {"peer": "h1", "takeover": True}),
    ):  # fmt: skip
        try:
            client.call(method, **params)
        except ShadowMeshError as e:
            refused.append(e.code)
    return client.status(), opened, refused


def as_nobody(look: Callable[[], T]) -> T:
    """What a process of another user finds."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with os.fdopen(write, "wb") as out:
                pickle.dump(look(), out)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        data = answer.read()
    os.waitpid(pid, 0)
    assert data, "the other user's process failed"
    return pickle.loads(data)


def test_the_controllers_database_holds_nothing_that_opens_anything(run: Run) -> None:
    data = run.world.lab.host("controller1").state_directory
    files = list(data.glob("controller.db*"))
    assert files
    for path in files:
        assert run.found_in(path.read_bytes()) == [], path


def test_a_secret_given_as_an_argument_is_hidden(run: Run) -> None:
    world, machine = run.world, run.world.lab.host("public1")
    token = world.manage("relay", "token")["token"]
    data = machine.directory / "relay"
    process = machine.popen(
        [*world.program, "relay", "run", "--data-dir", str(data), "--listen", f"0.0.0.0:{RELAY_PORT}", "--name", "late",
         "--public-url", f"ws://{machine.address}:{RELAY_PORT}", "--controller", world.controller_url(),
         "--fingerprint", world.fingerprint, "--token", token],
        log=machine.directory / "log",
    )  # fmt: skip
    world.until(
        lambda: any(r["name"] == "late" and r["online"] for r in world.manage("relay", "list")["relays"]), "the relay"
    )
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"--token" in arguments
    assert token.encode() not in arguments
    assert token.encode() not in (machine.directory / "log").read_bytes()
    assert process.poll() is None
