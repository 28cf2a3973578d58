"""A mesh in a lab, made by the commands that people use, and nothing else; daemons are asked by their sockets how far they are.

Secrets go by files and stdin, never as arguments. What was secret in a run is kept in `World.secrets`, so that a test
can look for it where it must not be.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from shadowmesh.client_api.local import DaemonClient
from shadowmesh.lab.internet import Host, Lab
from shadowmesh.model.codec import from_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.status import JoinResult, Status

T = TypeVar("T")

CONTROLLER_PORT = 8443
RELAY_PORT = 9545
NETWORK = "demo"
SUBNET = "10.77.0.0/24"
_STARTING = 40.0  # seconds that a role may take to be ready on a busy machine


def this_program() -> list[str]:
    """The arguments that run this very ShadowMesh: the single binary itself, or the package with this Python."""
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "shadowmesh"]


class CommandFailed(ShadowMeshError):
    """A command of the product ended with another code than it should. `returncode` and `stderr` are the command's."""

    def __init__(self, host: str, arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        said = done.stderr.strip().splitlines()
        super().__init__(
            "lab_command",
            f"`shadowmesh {' '.join(arguments)}` on {host} ended with {done.returncode}",
            said[-1] if said else "it said nothing",
        )
        self.returncode = done.returncode
        self.stderr = done.stderr


class World:
    """The roles running in a lab: controllers, relays, daemons, and what they gave out."""

    def __init__(
        self,
        lab: Lab,
        program: Sequence[str] | None = None,
        *,
        controller_port: int = CONTROLLER_PORT,
        relay_port: int = RELAY_PORT,
        relay_certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """`program`: the arguments that run ShadowMesh. Where sites let only HTTPS out, both ports have to be 443.
        With `relay_certificate` (chain and key, PEM) relays speak wss:// instead of ws://."""
        self.lab = lab
        self.program = list(program or this_program())
        self.controller_port = controller_port
        self.relay_port = relay_port
        self.relay_certificate = relay_certificate
        self.running: dict[str, subprocess.Popen[Any]] = {}
        self.secrets: dict[str, str] = {}
        self.settings: dict[str, str] = {}  # of roles that are started from now on, as environment variables
        self.fingerprint = ""
        self._abandoned = threading.Event()

    # commands

    def run(
        self, host: str, *arguments: str, stdin: str | None = None, codes: Iterable[int] = (0,), timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs `shadowmesh …` on a host. Raises CommandFailed for any exit code but `codes`."""
        try:
            done = self.lab.host(host).exec([*self.program, *arguments], input=stdin, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise ShadowMeshError(
                "lab_timeout",
                f"`shadowmesh {' '.join(arguments)}` on {host} didn't end in {timeout:.0f} s",
                self._tail(host),
            ) from None
        if done.returncode not in tuple(codes):
            raise CommandFailed(host, arguments, done)
        return done

    def json(self, host: str, *arguments: str, stdin: str | None = None, codes: Iterable[int] = (0,)) -> Any:
        """The one JSON document that a command with --json prints."""
        done = self.run(host, *arguments, "--json", stdin=stdin, codes=codes)
        try:
            return json.loads(done.stdout)
        except ValueError as e:
            raise CommandFailed(host, arguments, done) from e

    def log(self, host: str) -> Path:
        """Where the role that runs on the host writes its log."""
        return self.lab.host(host).directory / "log"

    # roles

    def start_controller(self, host: str = "controller1") -> None:
        """`controller init` (the first time) and `controller run`; returns when /readyz says so."""
        machine = self.lab.host(host)
        data = machine.state_directory
        if not data.exists():
            made = self.json(
                host, "controller", "init", "--data-dir", str(data), "--public-url", self.controller_url(host)
            )
            self.fingerprint = made["fingerprint"]
            self.secrets |= {"admin password": made["admin_password"], "api key": made["api_key"]}
        self._start(host, "controller", "run", "--data-dir", str(data))
        self.until(
            lambda: _answers(machine, self.controller_port, "/readyz"), f"the controller on {host}", watching=host
        )

    def controller_url(self, host: str = "controller1") -> str:
        return f"https://{self.lab.host(host).address}:{self.controller_port}"

    def manage(self, *arguments: str, controller: str = "controller1") -> Any:
        """A management verb on the controller's host, as JSON."""
        return self.json(controller, *arguments, "--data-dir", str(self.lab.host(controller).state_directory))

    def start_relay(self, host: str = "relay1", controller: str = "controller1") -> None:
        """`relay token` and `relay run`; returns when the controller lists the relay as online."""
        machine = self.lab.host(host)
        data = machine.state_directory
        scheme = "wss" if self.relay_certificate else "ws"
        arguments = [
            "relay", "run", "--data-dir", str(data), "--listen", f"0.0.0.0:{self.relay_port}",
            "--public-url", f"{scheme}://{machine.address}:{self.relay_port}", "--name", host,
            "--controller", self.controller_url(controller), "--fingerprint", self.fingerprint,
        ]  # fmt: skip
        if self.relay_certificate:
            chain, key = map(str, self.relay_certificate)
            arguments += ["--tls-cert", chain, "--tls-key", key]
        if not data.exists():
            token = str(self.manage("relay", "token", controller=controller)["token"])
            self.secrets[f"token of {host}"] = token
            arguments += ["--token", f"@{write_secret(machine.directory / 'relay-token', token)}"]
        self._start(host, *arguments)

        def online() -> bool:
            relays = self.manage("relay", "list", controller=controller)["relays"]
            return any(r["name"] == host and r["online"] for r in relays)

        self.until(online, f"the relay on {host}", watching=host)

    def create_network(self, name: str = NETWORK, subnet: str = SUBNET, *options: str) -> None:
        self.manage("network", "create", name, "--subnet", subnet, *options)

    def invite(self, network: str = NETWORK, *, uses: int = 1) -> str:
        invite = str(self.manage("network", "invite", network, "--uses", str(uses))["invite"])
        self.secrets[f"invite {len(self.secrets)}"] = invite
        return invite

    def start_daemon(self, host: str) -> None:
        """`daemon run`; returns when `status` answers."""
        machine = self.lab.host(host)
        self._start(host, "daemon", "run", "--state-dir", str(machine.state_directory))
        self.until(lambda: self._asked(host) is not None, f"the daemon on {host}", watching=host)

    def join(self, host: str, invite: str, *, codes: Iterable[int] = (0,)) -> JoinResult:
        """`join -` with the invite on stdin, under the host's own name."""
        done = self.run(host, "join", "-", "--name", host, "--json", stdin=invite + "\n", codes=codes)
        return from_json(done.stdout, JoinResult)

    def client(self, host: str) -> DaemonClient:
        """Speaks to the daemon by its own socket, which costs no process."""
        return DaemonClient(self.lab.host(host).state_directory)

    def status(self, host: str) -> Status:
        return from_json(self.run(host, "status", "--json").stdout, Status)

    def mesh(self, hosts: Sequence[str] | None = None, network: str = NETWORK, subnet: str = SUBNET) -> dict[str, str]:
        """Everything: controllers, relays, a network, a daemon on each host, all joined, each knowing all others.

        Returns host → overlay address.
        """
        machines = self.lab.state.machines
        chosen = list(hosts or (m.name for m in machines if m.role == "host"))
        with ThreadPoolExecutor(4) as pool:
            try:
                daemons = [pool.submit(self.start_daemon, host) for host in chosen]
                self.start_controller()
                relays = [pool.submit(self.start_relay, m.name) for m in machines if m.role == "relay"]
                self.create_network(network, subnet)
                for started in (*daemons, *relays):
                    started.result()
                invite = self.invite(network, uses=len(chosen))
                joined = list(pool.map(lambda host: self.join(host, invite), chosen))
                for host in chosen:
                    knows = partial(self._knows, host, network, {*chosen} - {host})
                    self.until(knows, f"the map on {host}", watching=host)
            except BaseException:  # Ctrl-C, too: nobody goes on waiting for what will not be
                self._abandoned.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {host: result.ip for host, result in zip(chosen, joined, strict=True)}

    # life of a role

    def stop(self, host: str, *, kill: bool = False, timeout: float = 10.0) -> int:
        """Ends the role on a host, by SIGTERM or kill -9; returns its exit code."""
        process = self.running.pop(host)
        (process.kill if kill else process.terminate)()
        code = int(process.wait(timeout))
        self.lab.children.remove(process)
        return code

    def _start(self, host: str, *arguments: str) -> None:
        machine = self.lab.host(host)
        environment = {**machine.environment(), **self.settings}
        self.running[host] = machine.popen([*self.program, *arguments], log=self.log(host), env=environment)

    def _asked(self, host: str) -> Status | None:
        """The daemon's status; None as long as nobody answers."""
        try:
            return self.client(host).status()
        except ShadowMeshError as e:
            if e.kind is not Kind.UNREACHABLE:
                raise
            return None

    def _knows(self, host: str, network: str, names: set[str]) -> bool:
        """Whether the host's daemon has these peers in the network."""
        status = self._asked(host)
        networks = status.networks if status is not None else ()
        return any(n.name == network and names <= {p.name for p in n.peers} for n in networks)

    def until(self, check: Callable[[], T], what: str, *, watching: str | None = None, timeout: float = _STARTING) -> T:
        """Asks until the answer is true, and returns it. `watching`: whose role's death ends the waiting at once.

        Raises ShadowMeshError with the end of the log.
        """
        deadline = time.monotonic() + timeout
        pause = 0.02
        while not (answer := check()):
            process = self.running.get(watching) if watching else None
            if process is not None and process.poll() is not None:
                raise ShadowMeshError("lab_role_ended", f"{what} ended with {process.returncode}", self._tail(watching))
            if time.monotonic() > deadline:
                raise ShadowMeshError("lab_timeout", f"{what} was not ready in {timeout:.0f} s", self._tail(watching))
            if self._abandoned.wait(pause):
                raise ShadowMeshError("lab_abandoned", f"nobody waits for {what} any more")
            pause = min(pause * 1.5, 0.3)
        return answer

    def _tail(self, host: str | None) -> str:
        if host is None or not self.log(host).exists():
            return "it has no log"
        return "its log ends:\n" + "\n".join(self.log(host).read_text(errors="replace").splitlines()[-15:])


class StatusFeed:
    """The last `status --json --watch` of a host, as it goes on; `changed` is called from the feed's own thread."""

    def __init__(self, world: World, host: str, changed: Callable[[str, Status], None]) -> None:
        self._host = host
        self._changed = changed
        self._world = world
        self._process = world.lab.host(host).popen(
            [*world.program, "status", "--json", "--watch"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, name=f"status of {host}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            try:
                status = from_json(line, Status)
            except MalformedError:  # cut off in the middle, at the end
                continue
            self._changed(self._host, status)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._world.lab.children.remove(self._process)

    def __enter__(self) -> StatusFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_secret(path: Path, secret: str) -> Path:
    """A file that only its owner reads."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(secret + "\n")
    return path


def _answers(host: Host, port: int, path: str) -> bool:
    """Whether the host's own HTTPS answers 200. Asks for no secret and gives none, so it needs no verified name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def ask() -> bool:
        connection = http.client.HTTPSConnection(host.address, port, timeout=2, context=context)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return host.run_in(ask)
