"""What the doctor says of a host: each thing that can be wrong is found, and has a remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shadowmesh.daemon import doctor
from shadowmesh.daemon.doctor import Check
from shadowmesh.daemon.state import NetworkRecord, NetworkSecrets, State
from shadowmesh.dataplane import pumps
from shadowmesh.dataplane.tun import Offloads
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import NetworkStatus

NOW = 1_790_000_000.0


def states(checks: list[Check]) -> dict[str, str]:
    for check in checks:
        assert bool(check.remedy) == (check.state != "ok"), check
    return {c.name: c.state for c in checks}


def network(**fields: object) -> NetworkStatus:
    usual = {
        "name": "office", "network_id": "x", "ip": "10.0.0.1", "interface": "shadowmesh0", "state": "up",
        "controller": "connected", "map_serial": 1, "epoch": 0, "home_relay": "r1", "peers": (),
    }  # fmt: skip
    return NetworkStatus(**(usual | fields))  # type: ignore[arg-type]


def test_without_a_daemon_it_says_so_and_looks_at_the_rest(tmp_path: Path) -> None:
    found = states(list(doctor.examine(tmp_path)))
    assert found["daemon"] == "fail" and found["state directory"] == "ok"
    assert {"pump", "tun", "udp offloads", "ip", "nft", "clock", "disk"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_which_pump_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pumps.ENVIRONMENT, raising=False)
    monkeypatch.setattr(pumps, "native_built", lambda: False)
    monkeypatch.setattr(doctor, "native_built", lambda: False)
    assert "python: the native one was not built" in doctor.pump(None).what
    assert "cargo" in doctor.pump(None).what
    assert doctor.pump("native").state == "warn"
    monkeypatch.setenv(pumps.ENVIRONMENT, "native")
    assert doctor.pump(None).state == "fail"
    monkeypatch.setenv(pumps.ENVIRONMENT, "python")
    assert doctor.pump("python").what == "python, as SHADOWMESH_PUMP says"


def test_a_tun_device_that_cant_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> tuple[int, str]:
        raise ShadowMeshError("tun_missing", "this kernel has no /dev/net/tun", "load the tun module")

    monkeypatch.setattr(doctor, "open_tun", refuse)
    assert states(list(doctor.tun())) == {"tun": "fail"}

    def forbid(_: str) -> tuple[int, str]:
        raise ShadowMeshError("tun_not_allowed", "no permission", "run the daemon as root", kind=Kind.NOT_ALLOWED)

    monkeypatch.setattr(doctor, "open_tun", forbid)
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor, "_DEVICE", Path("/dev/null"))
    assert states(list(doctor.tun())) == {"tun": "warn"}
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 0)  # root without the capability
    assert states(list(doctor.tun())) == {"tun": "fail"}


def test_kernel_offloads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.tun_offloads(Offloads(header=True, tcp=True, udp=True)).what == "vnet_hdr, TSO, USO"
    assert doctor.tun_offloads(Offloads(header=True, tcp=True)).state == "ok"
    assert doctor.tun_offloads(Offloads(header=True)).state == "warn"
    assert doctor.udp_offloads().state == "ok"
    monkeypatch.setattr(doctor, "UDP_GRO", 0x7FFF)  # as a kernel that doesn't know it
    lacking = doctor.udp_offloads()
    assert lacking.state == "warn" and lacking.what == "no UDP GRO"


def test_tools_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert states(list(doctor.tools())) == {"ip": "ok", "nft": "ok"}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert states(list(doctor.tools())) == {"ip": "warn", "nft": "warn"}


def test_a_clock_that_was_never_set_or_is_off() -> None:
    assert doctor.clock(NOW).state == doctor.clock(NOW, 5.0).state == "ok"
    assert doctor.clock(1000.0).state == "fail"
    assert doctor.clock(NOW, 600.0).what == "10 minutes slow by the controller's"
    ahead = doctor.clock(NOW, -400 * 86400.0)
    assert ahead.state == "fail" and "400 days fast" in ahead.what and "certificates" in ahead.what
    assert "57 years slow" in doctor.clock(NOW, 1_798_761_600.0).what


def test_the_networks_of_a_daemon() -> None:
    assert set(states(list(doctor.running_network(network()))).values()) == {"ok"}
    away = states(list(doctor.running_network(network(controller="offline", home_relay=None))))
    assert away == {"controller of office": "warn", "relay of office": "warn"}
    broken = list(doctor.running_network(network(state="error", error="it overlaps")))
    assert states(broken)["network office"] == "fail" and broken[0].what == "it overlaps"
    assert states(list(doctor.running_network(network(state="down")))) == {"network office": "ok"}


def test_without_a_daemon_the_kept_networks_controllers_are_asked(
    tmp_path: Path, joined: tuple[NetworkRecord, NetworkSecrets], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path)
    state.put_network(*joined)
    state.close()
    asked = []

    def unreachable(urls: tuple[str, ...], fingerprint: str, *, timeout: float) -> None:
        asked.append((urls, fingerprint))
        raise ShadowMeshError("controller_unreachable", "it can't be reached", "start it", kind=Kind.UNREACHABLE)

    monkeypatch.setattr("shadowmesh.client_api.enroll.reach", unreachable)
    assert states(list(doctor.kept_networks(tmp_path))) == {"controller of office": "warn"}
    assert asked == [(joined[0].controller.identity.urls, joined[0].controller.fingerprint)]
    (tmp_path / "state.db").write_bytes(b"garbage" * 999)
    assert states(list(doctor.kept_networks(tmp_path))) == {"state": "fail"}


def test_a_state_directory_that_others_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    assert doctor.state_modes(directory).state == "ok"
    State(directory).close()
    assert doctor.state_modes(directory).state == "ok"
    (directory / "state.db").chmod(0o640)
    found = doctor.state_modes(directory)
    assert found.state == "fail" and found.remedy == f"chmod go-rw {directory / 'state.db'}"


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, free))

    for free, state in ((0, "fail"), (20 << 20, "warn"), (1 << 30, "ok")):
        usage(free)
        assert doctor.disk(tmp_path / "not" / "there").state == state
