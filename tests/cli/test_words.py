"""What people read where a network is young, waits or has ended, and what goes with a secret."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tui_scenarios
from clikit import environment, program
from fake_daemon import FakeDaemon
from msgspec.structs import replace

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import NatStatus, PingTry, Status

if TYPE_CHECKING:
    from clikit import Command, Controller

NETWORK = replace(tui_scenarios.network(()), client_name="desk")


def status_text(sm: Command, directory: Path, value: Status) -> str:
    with FakeDaemon(directory, [value]):
        return sm("status", "--state-dir", directory).out


def test_a_network_without_peers_says_how_the_next_machine_gets_in(sm: Command, tmp_path: Path) -> None:
    shown = status_text(sm, tmp_path, tui_scenarios.status(NETWORK))
    assert "office  desk 10.66.0.2 on shadowmesh0  up" in shown and "serial 17  epoch 3" in shown
    assert "invite the next machine: `shadowmesh network invite NETWORK`" in shown


def test_who_waits_reads_how_the_machine_is_let_in(sm: Command, tmp_path: Path) -> None:
    shown = status_text(sm, tmp_path, tui_scenarios.status(replace(NETWORK, state="pending-approval")))
    assert "`shadowmesh client approve office desk`" in shown and "invite the next" not in shown


def test_who_was_removed_reads_it_once_and_what_to_do(sm: Command, tmp_path: Path) -> None:
    what = "removed by an administrator at 2030-01-01 00:00:00Z"
    ended = tui_scenarios.status(replace(NETWORK, state="removed", error=what))
    shown = status_text(sm, tmp_path, replace(ended, warnings=(f"office: {what}", "the disk is full")))
    assert shown.count(what) == 1 and "`shadowmesh leave office` forgets it" in shown
    assert "warning: the disk is full" in shown


def test_a_nat_that_isnt_known_is_said_once(sm: Command, tmp_path: Path) -> None:
    shown = status_text(sm, tmp_path, replace(tui_scenarios.status(NETWORK), nat=NatStatus()))
    assert "NAT of a kind not known yet; " in shown and "unknown" not in shown


def test_a_ping_that_waited_in_vain_for_a_direct_path_says_where_to_look(sm: Command, tmp_path: Path) -> None:
    daemon = FakeDaemon(tmp_path, [tui_scenarios.status(NETWORK)])
    daemon.pings["nas"] = [
        PingTry(seq=1, ok=True, latency_ms=1.0, path="relay", relay="relay1", reason="relay.upgrading")
    ]
    with daemon:
        ended = sm("ping", "nas", "--until-direct", "--state-dir", tmp_path)
        plain = sm("ping", "nas", "--state-dir", tmp_path)
    assert (ended.code, ended.err) == (10, "still by relay after 30 s: see `shadowmesh why nas`\n")
    assert (plain.code, plain.err) == (10, "")


def test_what_waits_for_approval_is_code_7_wherever_it_is_asked(sm: Command, tmp_path: Path) -> None:
    daemon = FakeDaemon(tmp_path, [tui_scenarios.status(replace(NETWORK, state="pending-approval"))])
    daemon.refusals["check_usable"] = ShadowMeshError("pending_approval", "it waits", "approve it", kind=Kind.WAITING)
    with daemon:
        sm("peers", "--state-dir", tmp_path).refused(7, "it waits; approve it")


def test_names_for_other_programs_are_explained(sm: Command) -> None:
    for word in ("dns", "name"):
        shown = sm("help", word).out
        assert "don't resolve these names yet" in shown and "/etc/hosts" in shown and "peers --json" in shown
    assert sm("help", "dns", "--json").document("help/1")["notes"]


def test_where_nothing_speaks_tls_it_is_said(sm: Command, tmp_path: Path) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, daemon=True).start()
        where = (
            "--controller",
            f"https://127.0.0.1:{listener.getsockname()[1]}",
            "--fingerprint",
            "sha256:" + "0" * 64,
        )
        sm("join", "office-abcd-efghijkl", *where, "--state-dir", tmp_path).refused(3, "no TLS there", "check the port")


def test_an_export_says_what_comes_next(sm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = {"config": "[Interface]\n", "network": "office", "peer": "nas"}
    monkeypatch.setattr("shadowmesh.cli.export.DaemonClient.call", lambda *_, **__: exported)
    done = sm("export", "wireguard", "nas", "--takeover")
    assert done.out == "[Interface]\n" and "office is down here now" in done.err
    assert "wg-quick up ./wg0.conf" in done.err and "shadowmesh up office" in done.err


# secrets by redirection


def test_a_secret_in_a_file_that_others_can_read_is_warned_of(controller: Controller, tmp_path: Path) -> None:
    def written(mode: int, *words: str) -> str:
        file = tmp_path / "secret"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.fchmod(descriptor, mode)
        command = [*program(*words), "--data-dir", str(controller.data_dir)]
        done = subprocess.run(
            command, stdout=descriptor, stderr=subprocess.PIPE, text=True, env=environment(tmp_path), check=True
        )
        os.close(descriptor)
        assert file.read_text()
        return done.stderr

    for words in (("relay", "token"), ("api-key", "create", "--quiet"), ("controller", "secrets", "export")):
        assert "warning: others can read the file" in written(0o644, *words), words
        assert "warning" not in written(0o600, *words), words
    nothing = [("controller", "fingerprint"), ("user", "add", "warner@example.org", "--service")]
    key = base64.b64encode(b"k" * 32).decode()
    nothing += [("network", "create", "plain"), ("client", "register", "plain", "camera", "--public-key", key)]
    for words in nothing:
        assert "others can read" not in written(0o644, *words), f"{words} shows no secret"


def test_what_was_made_or_changed_is_said(controller: Controller) -> None:
    controller.network("said", "198.18.70.0/24")
    assert "one relay registers with it, until 20" in controller("relay", "token").err
    changed = controller("network", "set", "said", "--approval", "--max-clients", "7", "--rename", "told")
    assert changed.out == "told: name said -> told, approval off -> on, max-clients 100 -> 7\n"
    assert controller("network", "set", "told", "--approval").out == "told: it was so already\n"
    for name in ("one", "two"):
        invite = controller.invite("told", "--client-name", name)["invite"]
        controller.sm("join", invite, "--state-dir", controller.data_dir.parent / name)
        controller("client", "approve", "told", name)
    controller("client", "remove", "told", "one", "--yes")
    deferred = controller("client", "remove", "told", "two", "--yes")
    assert "`shadowmesh network rotate-key told`" in deferred.err
    controller("network", "delete", "told", "--yes")


def test_the_audit_log_is_whole_in_a_pipe_and_may_be_short(controller: Controller) -> None:
    long = "d" * 300
    controller.network("audited", "198.18.71.0/24", "--description", long)
    assert long in controller("audit", "list").out
    newest = controller("audit", "list", "--limit", "1", "--json").document("audit/1")["entries"]
    assert [e["action"] for e in newest] == ["network.create"]
    controller("network", "delete", "audited", "--yes")
