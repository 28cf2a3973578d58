"""`shadowmesh bench`: wrong use, and what is in its way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shadowmesh.cli import main
from shadowmesh.client_api.local import DaemonClient
from shadowmesh.model.status import NetworkStatus, PingTry, Status


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one line."""
    with pytest.raises(SystemExit) as end:
        main.run(["bench", *arguments])
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: ") and told.err.count("\n") == 1 and "; " in told.err
    return int(end.value.code or 0), told.err


def network(**fields: str) -> NetworkStatus:
    own = {"name": "home", "network_id": "net_1", "ip": "127.0.0.1", "interface": "lo", "state": "up"}
    return NetworkStatus(controller="connected", **(own | fields))  # type: ignore[arg-type]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[NetworkStatus]:
    """A daemon that is in these networks, and whose peers are silent."""
    networks: list[NetworkStatus] = []
    silent = PingTry(seq=1, ok=False, reason="none.peer_offline")
    monkeypatch.setattr(
        DaemonClient, "status", lambda _self: Status(version="1", pump="python", networks=tuple(networks))
    )
    monkeypatch.setattr(DaemonClient, "ping", lambda _self, _peer, **_options: iter([silent]))
    return networks


@pytest.mark.parametrize("arguments", [(), ("h2", "--serve"), ("h2", "--seconds", "0"), ("h2", "--port", "70000")])
def test_wrong_use(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert refused(capsys, *arguments)[0] == 2


@pytest.mark.parametrize("arguments", [("h2",), ("--serve",)])
def test_no_daemon(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, line = refused(capsys, *arguments, "--state-dir", str(tmp_path))
    assert code == 3 and "daemon run" in line


def test_a_peer_that_does_not_answer(capsys: pytest.CaptureFixture[str], daemon: list[NetworkStatus]) -> None:
    daemon.append(network())
    code, line = refused(capsys, "h2")
    assert code == 3 and "none.peer_offline" in line and "shadowmesh why h2" in line


def test_nothing_to_serve_on(capsys: pytest.CaptureFixture[str], daemon: list[NetworkStatus]) -> None:
    daemon.append(network(state="down"))
    code, line = refused(capsys, "--serve")
    assert code == 1 and "no network is up here" in line


def test_the_port_is_taken(capsys: pytest.CaptureFixture[str], daemon: list[NetworkStatus]) -> None:
    daemon.append(network())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = refused(capsys, "--serve", "--port", str(port))
    assert code == 1 and f"port {port}" in line and "--port" in line
