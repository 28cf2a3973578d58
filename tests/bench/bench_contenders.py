"""Who is measured: each knows how to start between two namespaces, its processes, its inner address, its version.

All tunnels have an inner MTU of 1420; ciphers are AES-256-GCM where there is a choice (nebula, openvpn), tinc's own
default (AES-256-CBC with SHA-256), else ChaCha20-Poly1305.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import relay_bench
from bench_spaces import OUTER, SPACES, A, B, answers, clear, inside, pair, process, run, until

import shadowmesh
from shadowmesh.dataplane.pumps import native_built

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = ROOT / "build" / "bench" / "bin"
MEASURED = ("shadowmesh/dataplane", "shadowmesh/relay", "shadowmesh/protocol", "shadowmesh/model", "native")
MTU = 1420
INNER = ("10.98.0.1", "10.98.0.2")


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that runs. `target` is B's address as A reaches it."""

    spaces: tuple[str, str]
    target: str
    pids: tuple[int, ...]
    relay: tuple[int, ...] = ()  # those of `pids` that relay
    underlay: tuple[str, ...] = field(default=OUTER)


class Contender(ABC):
    key: str
    title: str
    group = "direct"

    @abstractmethod
    def version(self) -> str:
        """What exactly is measured. Builds it if need be; raises SystemExit."""

    @abstractmethod
    def start(self) -> AbstractContextManager[Running]:
        """Inside `underlay`."""

    def underlay(self, offloads: bool) -> AbstractContextManager[None]:
        return pair(offloads)


class Veth(Contender):
    key, title = "veth", "no tunnel"

    def version(self) -> str:
        return os.uname().release

    @contextmanager
    def start(self) -> Iterator[Running]:
        yield Running(SPACES, OUTER[1], ())


def our_version() -> str:
    """With the last commit of what is measured here, or where that isn't what is there, a hash of what is."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments, "--", *MEASURED], capture_output=True, text=True, check=False
        ).stdout.strip()

    commit = git("log", "-1", "--format=%h")
    if not commit or git("status", "--porcelain"):
        digest = hashlib.sha256()
        for path in sorted(
            p for top in MEASURED for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".rs", ".toml")
        ):
            digest.update(path.read_bytes())
        commit = f"code {digest.hexdigest()[:8]}"
    return f"{shadowmesh.__version__} ({commit})"


class Pump(Contender):
    """The data plane alone: a pump's process on each side, with fixed keys."""

    def __init__(self, name: str) -> None:
        self.key = self._name = name
        self.title = f"ShadowMesh, {name} pump"

    def version(self) -> str:
        return our_version()

    @contextmanager
    def start(self) -> Iterator[Running]:
        environment = os.environ | {"SHADOWMESH_PUMP": self._name}
        with ExitStack() as stack:
            pids = []
            for i, space in enumerate(SPACES):
                node = [sys.executable, str(HERE / "pump_node.py")]
                arguments = ["smb0", INNER[i], INNER[1 - i], OUTER[1 - i], "ab"[i], str(MTU)]
                started = stack.enter_context(process(space, *node, *arguments, env=environment, stdin=True))
                pids.append(_ready(started)[-1])
            yield Running(SPACES, INNER[1], tuple(pids))


def _ready(started: subprocess.Popen[str]) -> list[int]:
    assert started.stdout is not None
    word, *pids = started.stdout.readline().split() or ["nothing"]
    if word != "ready":
        raise SystemExit(f"{started.args} says {word}")
    return [int(pid) for pid in pids]


class WireGuardGo(Contender):
    key, title = "wireguard-go", "wireguard-go"

    def version(self) -> str:
        return go_build("golang.zx2c4.com/wireguard", ("",), ("wireguard",))

    @contextmanager
    def start(self) -> Iterator[Running]:
        keys = [run("wg", "genkey").strip() for _ in SPACES]
        publics = [run("wg", "pubkey", stdin=key).strip() for key in keys]
        with ExitStack() as stack:
            pids = []
            for i, space in enumerate(SPACES):
                name = f"smbwg{i}"
                control = Path(f"/var/run/wireguard/{name}.sock")
                started = stack.enter_context(process(space, str(BIN / "wireguard"), "-f", name))
                until(control.exists, f"wireguard-go in {space}")
                with tempfile.NamedTemporaryFile("w") as key:
                    key.write(keys[i])
                    key.flush()
                    run(
                        *inside(space, "wg", "set", name, "listen-port", "51821", "private-key", key.name),
                        *("peer", publics[1 - i], "allowed-ips", f"{INNER[1 - i]}/32", "endpoint", f"{OUTER[1 - i]}:51821"),
                    )  # fmt: skip
                run("ip", "-n", space, "link", "set", name, "mtu", str(MTU), "up")
                run("ip", "-n", space, "addr", "add", f"{INNER[i]}/32", "dev", name)
                run("ip", "-n", space, "route", "add", f"{INNER[1 - i]}/32", "dev", name)
                pids.append(started.pid)
            yield Running(SPACES, INNER[1], tuple(pids))


class Nebula(Contender):
    key, title = "nebula", "nebula"

    def version(self) -> str:
        return go_build("github.com/slackhq/nebula", ("/cmd/nebula", "/cmd/nebula-cert"), ("nebula", "nebula-cert"))

    @contextmanager
    def start(self) -> Iterator[Running]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            cert = str(BIN / "nebula-cert")
            authority = (f"{folder}/ca.crt", f"{folder}/ca.key")
            run(cert, "ca", "-name", "bench", "-out-crt", authority[0], "-out-key", authority[1])
            pids = []
            for i, space in enumerate(SPACES):
                files = (f"{folder}/{space}.crt", f"{folder}/{space}.key")
                run(
                    *(cert, "sign", "-name", space, "-ip", f"{INNER[i]}/24", "-ca-crt", authority[0], "-ca-key", authority[1]),
                    *("-out-crt", files[0], "-out-key", files[1]),
                )  # fmt: skip
                config = folder / f"{space}.yml"
                config.write_text(
                    f"pki: {{ca: {authority[0]}, cert: {files[0]}, key: {files[1]}}}\n"
                    f'static_host_map: {{"{INNER[1 - i]}": ["{OUTER[1 - i]}:4242"]}}\n'
                    "lighthouse: {am_lighthouse: false}\nlisten: {host: 0.0.0.0, port: 4242}\ncipher: aes\n"
                    f"tun: {{dev: smbneb{i}, mtu: {MTU}}}\n"
                    "firewall: {outbound: [{port: any, proto: any, host: any}], inbound: [{port: any, proto: any, host: any}]}\n"
                )
                log = folder / f"{space}.log"
                pids.append(
                    stack.enter_context(process(space, str(BIN / "nebula"), "-config", str(config), log=log)).pid
                )
            yield Running(SPACES, INNER[1], tuple(pids))


class OpenVpn(Contender):
    """Point to point, TLS with pinned certificates, data by AES-256-GCM in the process (no kernel module)."""

    key, title = "openvpn", "openvpn"

    def version(self) -> str:
        said = subprocess.run(["openvpn", "--version"], capture_output=True, text=True, check=False).stdout
        return _first(r"OpenVPN (\S+)", said, "openvpn")

    @contextmanager
    def start(self) -> Iterator[Running]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            prints = []
            for space in SPACES:
                run(
                    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                    *("-days", "2", "-subj", f"/CN={space}", "-keyout", f"{folder}/{space}.key", "-out", f"{folder}/{space}.crt"),
                )  # fmt: skip
                told = run("openssl", "x509", "-in", f"{folder}/{space}.crt", "-noout", "-fingerprint", "-sha256")
                prints.append(told.strip().partition("=")[2])
            pids = []
            for i, space in enumerate(SPACES):
                command = [
                    "openvpn", "--dev", f"smbov{i}", "--dev-type", "tun", "--proto", "udp", "--port", "1195",
                    "--remote", OUTER[1 - i], "--ifconfig", INNER[i], INNER[1 - i], "--tun-mtu", str(MTU),
                    "--cert", f"{folder}/{space}.crt", "--key", f"{folder}/{space}.key", "--peer-fingerprint", prints[1 - i],
                    "--data-ciphers", "AES-256-GCM", "--disable-dco", *(("--tls-server", "--dh", "none") if i == 0 else ("--tls-client",)),
                ]  # fmt: skip
                pids.append(stack.enter_context(process(space, *command, log=folder / f"{space}.log")).pid)
            yield Running(SPACES, INNER[1], tuple(pids))


class Tinc(Contender):
    key, title = "tinc", "tinc"

    def version(self) -> str:
        said = subprocess.run(["tincd", "--version"], capture_output=True, text=True, check=False).stdout
        return _first(r"tinc version (\S+)", said, "tincd")

    @contextmanager
    def start(self) -> Iterator[Running]:
        names = ("alpha", "beta")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for i, name in enumerate(names):
                own = folder / name
                (own / "hosts").mkdir(parents=True)
                (own / "tinc.conf").write_text(
                    f"Name = {name}\nConnectTo = {names[1 - i]}\nInterface = smbtinc{i}\nAddressFamily = ipv4\n"
                )
                (own / "hosts" / name).write_text(f"Subnet = {INNER[i]}/32\nAddress = {OUTER[i]}\n")
                run("tincd", "-c", str(own), "-K2048", stdin="\n\n")
                script = own / "tinc-up"
                script.write_text(
                    f"#!/bin/sh\nip link set $INTERFACE mtu {MTU} up\nip addr add {INNER[i]}/24 dev $INTERFACE\n"
                )
                script.chmod(0o755)
            for i, name in enumerate(names):
                (folder / name / "hosts" / names[1 - i]).write_text(
                    (folder / names[1 - i] / "hosts" / names[1 - i]).read_text()
                )
            pids = []
            for space, name in zip(SPACES, names, strict=True):
                command = ["tincd", "-c", str(folder / name), "-D", "--pidfile", str(folder / f"{name}.pid")]
                pids.append(stack.enter_context(process(space, *command, log=folder / f"{name}.log")).pid)
            yield Running(SPACES, INNER[1], tuple(pids))


class Tunnel(Contender):
    """A pump on each side and the real relay between them, after real logins; or the same three hosts without the relay."""

    group = "relayed"

    def __init__(self, pump: str, via: str) -> None:
        self._pump, self._via = pump, via
        self.key = f"{pump}-{via}"
        way = {"direct": "direct", "udp": "relay, UDP", "ws": "relay, WebSocket", "wss": "relay, WebSocket/TLS"}[via]
        self.title = f"{pump} pump, {way}"

    def version(self) -> str:
        return our_version()

    def underlay(self, offloads: bool) -> AbstractContextManager[None]:
        clear(relay_bench.SPACES)
        return relay_bench.namespaces(offloads)

    @contextmanager
    def start(self) -> Iterator[Running]:
        links, own, (a, r, b) = relay_bench.LINKS, relay_bench.OWN, relay_bench.SPACES
        with ExitStack() as stack:
            relay: list[int] = []
            if self._via != "direct":
                cert = stack.enter_context(relay_bench.certificate()) if self._via == "wss" else []
                _, relay = stack.enter_context(relay_bench.node(r, "relay", "0.0.0.0", *cert))
            pids = list(relay)
            stack.enter_context(_environment(SHADOWMESH_PUMP=self._pump))
            for space, other in ((a, b), (b, a)):
                where = links[other][0] if self._via == "direct" else links[space][1]
                url = f"{self._via}://{where}:{relay_bench.PORTS.get(self._via, 9545)}"
                _, found = stack.enter_context(
                    relay_bench.node(space, "tunnel", self._via, url, own[space], own[other])
                )
                pids += found
            yield Running((a, b), own[b], tuple(pids), tuple(relay))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Stream(Contender):
    """A paced stream of datagrams or messages through a relay: what the relay alone spends."""

    group = "relay"

    def __init__(self, kind: str, title: str) -> None:
        self.kind = kind
        self.key, self.title = f"stream-{kind}", title

    def version(self) -> str:
        if self.kind != "coturn":
            return our_version()
        said = run("dpkg-query", "-W", "-f", "${Version}", "coturn")
        return said.strip()

    def underlay(self, offloads: bool) -> AbstractContextManager[None]:
        return Tunnel("python", "udp").underlay(offloads)

    @contextmanager
    def start(self) -> Iterator[Running]:
        yield Running((relay_bench.A, relay_bench.B), relay_bench.LINKS[relay_bench.B][0], ())


def everyone() -> list[Contender]:
    """All that this machine can run."""
    pumps = ["native", "python"] if native_built() else ["python"]
    return [
        Veth(),
        WireGuardGo(),
        *map(Pump, pumps),
        Nebula(),
        OpenVpn(),
        Tinc(),
        *(Tunnel(pump, via) for pump in pumps for via in ("direct", "udp", "ws", "wss")),
        Stream("coturn", "coturn, UDP"),
        Stream("udp-udp", "ShadowMesh relay, UDP"),
        Stream("ws-ws", "ShadowMesh relay, WebSocket"),
        Stream("wss-wss", "ShadowMesh relay, WebSocket/TLS"),
    ]


def reach(running: Running) -> None:
    """Waits until the other side answers through the tunnel. Raises SystemExit."""
    until(lambda: answers(running.spaces[0], running.target), f"{running.target} answers through the tunnel", 25.0)


# building


def go_build(module: str, below: tuple[str, ...], names: tuple[str, ...]) -> str:
    """Builds programs of a Go module at its newest version that can be built here. Returns the version."""
    paths = [BIN / name for name in names]
    if not all(p.exists() for p in paths):
        environment = os.environ | {
            "GOBIN": str(BIN),
            "GOTOOLCHAIN": "auto",  # a version that wants a newer Go fetches it, too
            "GOFLAGS": f"{os.environ.get('GOFLAGS', '')} -modcacherw".strip(),
        }
        said = ""
        for version in _newest_first(module):
            for path in below:
                done = subprocess.run(
                    ["go", "install", f"{module}{path}@{version}"],
                    capture_output=True, text=True, env=environment, check=False,
                )  # fmt: skip
                if done.returncode:
                    said = done.stderr.strip().splitlines()[-1]
                    print(f"{module} {version}: {said}", file=sys.stderr)
                    break
            else:
                break
        else:
            raise SystemExit(f"can't build {module}: {said}")
    told = run("go", "version", "-m", str(paths[0]))
    return _first(r"\smod\s+\S+\s+(\S+)", told, module)


def _newest_first(module: str) -> list[str]:
    """`latest`, then tagged versions, newest first: the newest may want a newer Go than can be had."""
    with tempfile.TemporaryDirectory() as nowhere:  # outside of any module
        told = subprocess.run(
            ["go", "list", "-m", "-versions", module], capture_output=True, text=True, cwd=nowhere, check=False
        )
    return ["latest", *reversed(told.stdout.split()[1:])][:8]


def _first(pattern: str, text: str, what: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"{what} is not there")
    return found.group(1)


def versions(contenders: Sequence[Contender]) -> dict[str, str]:
    """Of those that can run here; who can't is told of on stderr."""
    BIN.mkdir(parents=True, exist_ok=True)
    found = {}
    for contender in contenders:
        try:
            found[contender.key] = contender.version()
        except (SystemExit, OSError) as e:
            print(f"left out: {contender.title}: {e}", file=sys.stderr)
    return found


__all__ = ["A", "B", "Contender", "Running", "Stream", "everyone", "reach", "versions"]
