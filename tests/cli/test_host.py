"""Client verbs with a running daemon, other users, and full disks: in network and mount namespaces of their own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clikit import Command, Controller, Result, environment, program, start
from freeport import free_port

pytestmark = pytest.mark.root
FAILED, USAGE, UNREACHABLE, NOT_ALLOWED, NOT_FOUND, CONFLICT, NO_PATH = 1, 2, 3, 4, 5, 6, 20


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@dataclass
class Host:
    """Two hosts on one link: `near` runs the controller and a daemon, `far` joins without one."""

    process: Command
    near: tuple[str, ...]
    far: tuple[str, ...]
    state: Path
    controller: Controller
    home: Path

    def __call__(self, *arguments: object, **options: Any) -> Result:
        return self.process(*arguments, "--state-dir", self.state, prefix=self.near, **options)

    def join_from_afar(self, network: str, name: str, state: Path) -> Result:
        invite = self.controller.invite(network, "--client-name", name)["invite"]
        return self.process("join", "-", "--state-dir", state, "--json", prefix=self.far, stdin=invite)

    def interfaces(self) -> set[str]:
        shown = subprocess.run([*self.near, "ip", "-j", "link"], capture_output=True, text=True, check=True)
        return {link["ifname"] for link in json.loads(shown.stdout)}


@pytest.fixture(scope="module")
def host(sm: Command, process: Command, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    tag = f"cli-{os.getpid()}"
    near, far = f"{tag}a", f"{tag}b"
    inside = {name: ("ip", "netns", "exec", name) for name in (near, far)}
    base = Path("/tmp") / tag
    base.mkdir(mode=0o755)
    base.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["rm", "-rf", str(base)], check=False)
        for name, address in ((near, "192.0.2.1/24"), (far, "192.0.2.2/24")):
            ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
            ip("-n", name, "link", "set", "lo", "up")
            if name == far:
                ip("-n", near, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", far)
            del address
        for name, address in ((near, "192.0.2.1/24"), (far, "192.0.2.2/24")):
            ip("-n", name, "addr", "add", address, "dev", "eth0")
            ip("-n", name, "addr", "add", address.replace("192.0.2", "192.168.77"), "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        port, data = free_port(), base / "controller"
        url = f"https://192.0.2.1:{port}"
        made = process("controller", "init", "--data-dir", data, "--public-url", url, "--json").document(
            "controller-init/1"
        )
        running = start(home, "controller", "run", "--data-dir", data, prefix=inside[near])
        stack.callback(running.stop)
        running.until("controller ready")
        controller = Controller(data, url, made, sm)
        state = base / ("a-state-directory-with-a-long-name-" * 4)  # longer than a socket's address
        daemon = start(home, "daemon", "run", "--state-dir", state, prefix=inside[near])
        stack.callback(daemon.stop)
        daemon.until("daemon runs")
        found = Host(process, inside[near], inside[far], state, controller, home)
        for number, network in enumerate(("office", "shop")):
            controller.network(network, f"198.18.{number}.0/24")
            invite = controller.invite(network)["invite"]
            joined = found("join", "-", "--name", "here", "--json", stdin=invite).document("join/1")
            assert (joined["state"], joined["ip"]) == ("up", f"198.18.{number}.1")
            shown = controller("network", "show", joined["network_ref"], "--json").document("network/1")
            assert (shown["name"], shown["wire_id"]) == (network, joined["network_id"])
            assert found.join_from_afar(network, "twin", base / f"far-{network}").code == 0
        assert found.join_from_afar("shop", "single", base / "far-single").code == 0
        yield found


def until_peers(host: Host, count: int) -> dict[str, Any]:
    """The first status, as it is told on each change, that shows so many peers."""
    watch = [*host.near, *program("status", "--watch", "--json", "--state-dir", host.state)]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True, env=environment(host.home)) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                status: dict[str, Any] = json.loads(line)
                assert status["schema"] == "shadowmesh.status/1"
                if sum(len(n["peers"]) for n in status["networks"]) == count:
                    return status
        finally:
            process.terminate()
    raise AssertionError("the daemon went away")


def test_status_and_peers(host: Host) -> None:
    watched = until_peers(host, 3)
    status = host("status", "--json").document("status/1")
    assert [n["name"] for n in status["networks"]] == ["office", "shop"] == [n["name"] for n in watched["networks"]]
    assert {n["interface"] for n in status["networks"]} <= host.interfaces()
    assert {"version", "pump", "nat", "warnings"} <= set(status)
    peers = host("peers", "shop", "--json").document("peers/1")["peers"]
    assert {(p["network"], p["name"]) for p in peers} == {("shop", "twin"), ("shop", "single")}
    shown = host("status").out
    assert "office  here 198.18.0.1 on shadowmesh" in shown and "twin" in shown and "\x1b" not in shown
    assert host("status", "--quiet").out == ""


def test_the_doctor_looks_at_a_running_daemon(host: Host, as_nobody: tuple[str, ...]) -> None:
    until_peers(host, 3)
    before = host.interfaces()
    found = host("doctor", "--json").document("doctor/1", code=1)
    states = {c["name"]: c["state"] for c in found["checks"]}
    assert not found["ok"] and {n for n, s in states.items() if s != "ok"} == {"relay of office", "relay of shop"}
    assert {"daemon", "pump", "tun", "tun offloads", "udp offloads", "clock", "controller of office", "disk"} <= set(
        states
    )
    assert host.interfaces() == before
    looked = host.process("doctor", "--state-dir", host.state, prefix=(*host.near, *as_nobody))
    assert looked.code == 1 and "warn  tun: " in looked.out and "run the doctor as root" in looked.out
    assert "ok    controller of shop: connected" in looked.out and "ok    state directory" in looked.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("up nope", NOT_FOUND, "there is office, shop"),
        ("down nope", NOT_FOUND, "there is office, shop"),
        ("leave nope --yes", NOT_FOUND, "there is office, shop"),
        ("peers nope", NOT_FOUND, "no network nope here; there is office, shop"),
        ("ping nobody", NOT_FOUND, "`shadowmesh peers` lists them"),
        ("why nobody@shop", NOT_FOUND, "no peer nobody@shop"),
        ("why twin@nope", NOT_FOUND, "no network nope"),
        ("ping 198.18.0.99", NOT_FOUND, "no peer 198.18.0.99"),
        ("ping twin", USAGE, "say twin@office, twin@shop"),
        ("why twin", USAGE, "twin@office"),
        ("wait nobody --timeout 1", NOT_FOUND, "no peer nobody"),
        ("wait single --state direct --timeout 0.5", FAILED, "shadowmesh why single"),
        ("export wireguard single", CONFLICT, "--takeover"),
        ("export wireguard single --takeover", CONFLICT, "--endpoint HOST:PORT"),
        ("export wireguard single --takeover --endpoint 203.0.113.4", USAGE, "is no HOST:PORT"),
    ],
)
def test_what_the_daemon_refuses(host: Host, arguments: str, code: int, words: str) -> None:
    until_peers(host, 3)
    before = [(n["name"], n["state"]) for n in host("status", "--json").document("status/1")["networks"]]
    host(*arguments.split(), "--json").refused(code, words)
    after = [(n["name"], n["state"]) for n in host("status", "--json").document("status/1")["networks"]]
    assert before == after == [("office", "up"), ("shop", "up")]


def test_a_peer_without_a_path(host: Host) -> None:
    until_peers(host, 3)
    tried = host("ping", "single", "-c", "1", "--timeout", "1", "--json")
    (line,) = map(json.loads, tried.out.splitlines())
    assert tried.code == NO_PATH and not line["ok"] and line["reason"].startswith("none.")
    assert host("why", "single", "--json").document("why/1", code=NO_PATH)["peer"]["name"] == "single"
    assert host("why", "198.18.1.2", "--json").document("why/1", code=NO_PATH)["peer"]["name"] == "twin"


def test_a_network_that_would_overlap_is_refused_before_its_invite_is_used_up(host: Host) -> None:
    for name, subnet, other in (
        ("wide", "198.18.0.0/15", "network office"),
        ("lan", "192.168.0.0/16", "interface eth0"),
    ):
        host.controller.network(name, subnet)
        invite = host.controller.invite(name)
        refused = host("join", "-", "--json", stdin=invite["invite"])
        refused.refused(CONFLICT, f"{subnet} of {name} overlaps", other, "ask for another subnet")
        afar = host.process(
            "join", "-", "--state-dir", host.state.parent / "far-office", prefix=host.far, stdin=invite["invite"]
        )
        afar.refused(CONFLICT, f"{subnet} of {name} overlaps", other)
        assert (host.controller.states(name)[invite["id"]], host.controller.clients(name)) == ("open", [])
    assert [n["name"] for n in host("status", "--json").document("status/1")["networks"]] == ["office", "shop"]


def test_joining_twice_is_refused_before_the_invite_is_used_up(host: Host) -> None:
    invite = host.controller.invite("shop")
    host("join", "-", stdin=invite["invite"]).refused(
        CONFLICT, "in shop already, as 198.18.1.1", "shadowmesh leave shop"
    )
    assert host.controller.states("shop")[invite["id"]] == "open"


def test_a_second_daemon_is_held_out(host: Host) -> None:
    host("daemon", "run").refused(CONFLICT, "another daemon uses", "--state-dir")
    assert host("status", "--json").document("status/1")


def test_down_and_up(host: Host) -> None:
    before = host.interfaces()
    assert host("down", "shop").out == "shop: down\n"
    assert len(before - host.interfaces()) == 1
    host("ping", "single", "--json", "-c", "1")
    host("why", "single").refused(CONFLICT, "`shadowmesh up shop`")
    assert host("up", "shop", "--json").document("up/1")["networks"][0]["state"] == "up"
    assert host.interfaces() == before


def test_other_users_may_look_but_not_change(host: Host, as_nobody: tuple[str, ...]) -> None:
    def nobody(*arguments: object, **options: Any) -> Result:
        return host.process(*arguments, "--state-dir", host.state, prefix=(*host.near, *as_nobody), **options)

    status = nobody("status", "--json").document("status/1")
    assert [n["name"] for n in status["networks"]] == ["office", "shop"]
    assert status["nat"]["public"] is status["nat"]["opened"] is None and all(
        p["endpoint"] is None for n in status["networks"] for p in n["peers"]
    )
    for arguments in ("up shop", "down shop", "leave shop --yes", "ping single", "export wireguard single --takeover"):
        nobody(*arguments.split(), "--json").refused(NOT_ALLOWED, "root")
    nobody("join", "-", stdin=host.controller.invite("shop")["invite"]).refused(NOT_ALLOWED, "root")
    nobody("daemon", "run").refused(NOT_ALLOWED, "needs root")
    manage = ("network", "list", "--data-dir", host.controller.data_dir)
    host.process(*manage, prefix=as_nobody).refused(NOT_ALLOWED)
    host.process("controller", "run", "--data-dir", host.controller.data_dir, prefix=as_nobody).refused(NOT_ALLOWED)


# without a daemon


def test_what_needs_root_says_so(process: Command, open_path: Path, as_nobody: tuple[str, ...]) -> None:
    closed = open_path / "sub"
    process("controller", "init", "--data-dir", closed, "--public-url", "https://h:1", prefix=as_nobody).refused(
        NOT_ALLOWED
    )
    relay = ("relay", "run", "--data-dir", closed, "--public-url", "ws://h:1", "--listen", "127.0.0.1:9")
    process(*relay, prefix=as_nobody).refused(NOT_ALLOWED, "Permission denied")
    process("daemon", "install", "--unit-dir", open_path, prefix=as_nobody).refused(NOT_ALLOWED, "root")
    for verb in ("up", "down"):
        process("lab", verb, prefix=as_nobody).refused(NOT_ALLOWED, "root")
    assert not list(open_path.iterdir())


ON_A_SMALL_DISK = 'mount -t tmpfs -o size="$1" none "$2" && cd "$2" && shift 2 && exec sh -c "$0" sh "$@"'


def on_a_small_disk(path: Path, size: str, script: str, home: Path, *more: str, stdin: str = "") -> Result:
    """Runs a shell script on a tmpfs of that size; `$SM` is the program."""
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", ON_A_SMALL_DISK, script, size, str(path), *more]
    env = environment(home, SM=" ".join(program()))
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=90, env=env, check=False)
    return Result((script,), done.returncode, done.stdout, done.stderr)


def test_a_full_disk_makes_no_half_controller(tmp_path: Path, home: Path) -> None:
    script = "$SM controller init --data-dir data --public-url https://h:1; code=$?; ls -A data; exit $code"
    for size in ("8k", "28k", "64k", "200k"):  # at the keys, at the certificates, in the database
        on_a_small_disk(tmp_path, size, script, home).refused(FAILED, "free some space")  # and nothing on stdout


def test_a_full_disk_makes_no_half_state(tmp_path: Path, home: Path, controller: Controller) -> None:
    controller.network("disk", "198.18.9.0/24")
    invite = controller.invite("disk")["invite"]
    for size in ("4k", "16k", "40k"):
        ended = on_a_small_disk(tmp_path, size, "$SM join - --state-dir state", home, stdin=invite)
        ended.refused(FAILED, "no space is left for the state in state", "free some")


def test_a_disk_that_fills_loses_nothing(tmp_path: Path, home: Path, controller: Controller) -> None:
    """The first network stays, and the second is joined once there is room, by the same invite."""
    for number, name in enumerate(("first", "second")):
        controller.network(name, f"198.18.{10 + number}.0/24")
    invites = [controller.invite(name)["invite"] for name in ("first", "second")]
    script = """
      echo "$1" | $SM join - --state-dir state >&2 || exit 90
      cat /dev/zero >fill 2>/dev/null; echo "$2" | $SM join - --state-dir state; code=$?
      rm fill; [ $code = 1 ] || exit 91
      echo "$2" | $SM join - --state-dir state >&2 || exit 92
      for invite; do echo "$invite" | $SM join - --state-dir state; [ $? = 6 ] || exit 93; done
    """
    ended = on_a_small_disk(tmp_path, "600k", script, home, *invites)
    assert ended.code == 0 and "no space is left" in ended.err, ended
    assert [len(controller.clients(name)) for name in ("first", "second")] == [1, 1]
