"""A lab comes up whole, is found by other processes, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shadowmesh.cli.main import run
from shadowmesh.lab import guard, internet, netns, verbs
from shadowmesh.lab.conversations import Conversations, transfer
from shadowmesh.lab.internet import Lab
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.model.errors import Kind, ShadowMeshError

pytestmark = pytest.mark.lab

SMALL = LabSpec(sites=(SiteSpec(nat=NatType.PORT_RESTRICTED),), relays=1)


def remains(lab_id: str, directory: Path | None = None) -> list[str]:
    """What is left of a lab: namespaces, files."""
    directory = directory or internet.default_directory()
    return netns.names(rf"smlab-{lab_id}-.*") + [str(p) for p in directory.glob(f"{lab_id}*")]


def ended(pid: int, patience: float = 10.0) -> bool:
    """Waits for the end of any process."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], patience)[0])
    finally:
        os.close(handle)


def test_nothing_remains(lab_factory) -> None:
    lab = lab_factory(SMALL)
    process = lab.host("h1").popen(["sleep", "1000"])
    assert set(remains(lab.id)) >= set(lab.state.namespaces())
    assert lab.host("h1").processes() == [process.pid]
    lab.down()
    assert remains(lab.id) == []
    assert process.returncode == -signal.SIGTERM
    lab.down()  # and again, where nothing is
    with pytest.raises(ShadowMeshError, match="no lab"):
        lab.heal()
    assert remains(lab.id) == []


def test_a_process_that_doesnt_want_to_go_goes(lab_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_factory(SMALL)
    stubborn = "trap '' TERM; echo ready; while :; do sleep 1000; done"
    process = lab.host("h1").popen(["sh", "-c", stubborn], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    namespaces = list(lab.state.namespaces())
    netns.end_processes(namespaces, grace=0.2)
    assert process.wait(5) == -signal.SIGKILL
    assert netns.processes(namespaces) == {}


def test_the_state_file_isnt_needed_to_end_a_lab(lab_factory) -> None:
    lab = lab_factory(SMALL)
    process = lab.host("relay1").popen(["sleep", "1000"])
    Path(lab.state.directory, f"{lab.id}.json").unlink()
    assert lab.id in internet.all_labs()
    assert set(internet.down(lab.id)) == set(lab.state.namespaces())
    assert process.wait(5) == -signal.SIGTERM
    assert remains(lab.id) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_remains_when_the_maker_is_killed(tmp_path: Path, lab_factory, how: signal.Signals) -> None:
    lab_id = f"k{os.getpid()}"
    story = f"""
import sys, time
from pathlib import Path
from shadowmesh.lab.internet import Lab
from shadowmesh.lab.plan import LabSpec, SiteSpec
with Lab(LabSpec(sites=(SiteSpec(),)), {lab_id!r}, Path({str(tmp_path)!r})) as lab:
    print(lab.host("h1").popen(["sleep", "1000"]).pid, lab._guard, flush=True)
    time.sleep(1000)
"""
    maker = subprocess.Popen(
        [sys.executable, "-c", story], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    inside, watcher = map(int, maker.stdout.readline().split())
    assert remains(lab_id, tmp_path)
    maker.send_signal(how)
    maker.communicate()
    assert ended(inside)
    assert ended(watcher)
    assert remains(lab_id, tmp_path) == []


def test_a_lab_that_cant_be_made_leaves_nothing(lab_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(SMALL, f"f{os.getpid()}")

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(netns, "run_nft", refuse)
    with pytest.raises(KeyboardInterrupt):
        lab.up(guarded=True)
    assert remains(lab.id) == []


def test_a_guard_that_was_dismissed_does_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "acted"
    watcher = guard.start(mark.touch)
    guard.dismiss(watcher)
    assert ended(watcher)
    assert not mark.exists()


def test_labs_stand_side_by_side_and_one_id_only_once(lab_factory) -> None:
    one, two = lab_factory(SMALL), lab_factory(SMALL)
    assert {one.id, two.id} <= set(internet.all_labs())
    assert not set(one.state.namespaces()) & set(two.state.namespaces())
    with pytest.raises(ShadowMeshError, match="lab down") as refused:
        Lab(SMALL, one.id).up()
    assert refused.value.kind is Kind.CONFLICT
    two.down()
    assert one.host("h1").exec(["true"]).returncode == 0


def test_another_process_finds_and_changes_the_lab(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(), SiteSpec()), public=1))
    verbs.nat("s2", "symmetric", lab_id=lab.id)
    verbs.loss("s1", 5, lab_id=lab.id)
    verbs.cut("h1", "public1", lab_id=lab.id)
    described = verbs.status(lab_id=lab.id)
    assert [s["nat"] for s in described["sites"]] == ["none", "symmetric"]
    assert described["faults"]["loss"] == {"s1": 5}
    assert set(described["faults"]["cuts"]) == {("h1", "public1"), ("public1", "h1")}
    assert not verbs.heal(lab_id=lab.id)["cuts"]
    with pytest.raises(ShadowMeshError, match="no lab"):
        verbs.status(lab_id="nosuchlab")


def test_changes_from_many_threads_are_all_kept(lab_factory) -> None:
    lab = lab_factory(LabSpec(public=4))
    pairs = [(f"public{a}", f"public{b}") for a in range(1, 5) for b in range(1, 5) if a != b]
    threads = [threading.Thread(target=lambda a=a, b=b: Lab.attach(lab.id).cut(a, b, one_way=True)) for a, b in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Lab.attach(lab.id).state.faults.cuts) == set(pairs)


def test_a_program_sees_its_own_machine(lab_factory) -> None:
    lab = lab_factory(SMALL)
    host = lab.host("h1")
    assert host.exec(["hostname"]).stdout == "h1\n"
    assert set(host.exec(["ls", "/sys/class/net"]).stdout.split()) <= {"lo", "eth0", "bonding_masters"}
    assert host.exec(["printenv", "SHADOWMESH_STATE_DIR"]).stdout.strip() == str(host.directory)
    assert host.exec(["cat"], input="in and out").stdout == "in and out"
    assert verbs.execute("h1", ["sh", "-c", "exit 7"], lab_id=lab.id) == 7
    assert verbs.execute("h1", ["sh", "-c", "kill -9 $$"], lab_id=lab.id) == 137
    with pytest.raises(ShadowMeshError, match="no program"):
        verbs.execute("h1", ["nosuchprogram"], lab_id=lab.id)
    with pytest.raises(SystemExit) as end:
        run(["lab", "exec", "h1", "--lab", lab.id, "--", "nosuchprogram"])
    assert end.value.code == 127
    with pytest.raises(SystemExit) as end:
        run(["lab", "exec", "h1", "--lab", lab.id, "--", "/etc/passwd"])
    assert end.value.code == 126
    log = host.directory / "log"
    host.popen(["sh", "-c", "echo out; echo err >&2"], log=log).wait(5)
    assert log.read_text() == "out\nerr\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_up_gives_the_typical_lab_and_down_takes_it(lab_factory) -> None:
    lab_id = f"u{os.getpid()}"
    try:
        described = verbs.up(lab_id=lab_id)
        assert [s["nat"] for s in described["sites"]] == ["none", "full_cone", *["port_restricted"] * 2, "symmetric"]
        assert {h["name"] for h in described["hosts"]} == {"h1", "h2", "h3", "h4", "h5", "relay1", "controller1"}
        assert verbs.status(lab_id=lab_id) == described
    finally:
        assert len(verbs.down(lab_id=lab_id)["removed"]) == 13
    assert remains(lab_id) == []


def test_a_capture_counts_what_passes(lab_factory) -> None:
    lab = lab_factory(LabSpec(sites=(SiteSpec(nat=NatType.PORT_RESTRICTED),), public=1))
    home, server = lab.host("h1"), lab.host("public1")
    with server.capture(lambda p: p.target_port == 5555 and not p.outgoing) as capture, home.socket() as out:
        for number in range(3):
            out.sendto(bytes([number]), (server.address, 5555))
            out.sendto(b"", (server.address, 5556))
        assert capture.wait(3, 2.0)
    assert [p.data[-1] for p in capture.packets] == [0, 1, 2]
    assert {str(p.source) for p in capture.packets} == {home.outer_address}


def test_real_traffic_over_the_labs_internet(lab_factory) -> None:
    lab = lab_factory(LabSpec(public=2))
    one, two = lab.host("public1"), lab.host("public2")
    with Conversations({"a": one, "b": two}, {"a": one.address, "b": two.address}) as conversations:
        done = transfer(one, two, two.address, seconds=0.2)
        talk = conversations.pairs["a", "b"]
        lab.cut("public1", "public2")
        lab.heal()
        with two.capture(lambda p: p.target_port == 7007 and len(p.data) > 52) as capture:
            assert capture.wait(2, 5.0), "the conversation goes on"
    assert done.intact
    assert done.mbit > 100
    assert talk.first_answer is not None
    assert talk.broken == 0
