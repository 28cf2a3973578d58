"""`shadowmesh bench` between two daemons of a lab, as people use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess

import pytest

from shadowmesh.bench import messages
from shadowmesh.lab import netns
from shadowmesh.lab.internet import Lab, missing
from shadowmesh.lab.plan import LabSpec, SiteSpec
from shadowmesh.lab.world import World

pytestmark = [pytest.mark.lab, pytest.mark.slow]


def test_between_two_machines() -> None:
    if lacking := missing():
        pytest.skip(f"LAB TESTS NOT RUN: {lacking}")
    with Lab(LabSpec(sites=(SiteSpec(), SiteSpec()), relays=1, controllers=1), f"b{os.getpid()}") as lab:
        world = World(lab)
        addresses = world.mesh()
        refused = world.run("h1", "bench", "h2", codes=(3,))
        assert refused.stderr.startswith(f"error: nobody serves at h2 ({addresses['h2']} port 9550); ")
        assert "bench --serve" in refused.stderr and refused.stdout == ""

        far = lab.host("h2").popen(
            [*world.program, "bench", "--serve", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert far.stdout is not None
        serving = json.loads(far.stdout.readline())
        assert serving["schema"] == "shadowmesh.bench-serve/1"
        assert serving["listening"] == [{"network": "demo", "ip": addresses["h2"], "port": 9550}]

        # the neighbour on the LAN gets in neither by the LAN's address nor by sending the overlay's to this machine
        own, router = lab.host("h2").address, lab.state.namespace("s2")
        subprocess.run(["ip", "-n", router, "route", "add", f"{addresses['h2']}/32", "via", own], check=True)
        for target in (own, addresses["h2"]):
            assert not netns.call(router, lambda target=target: connects(target)), f"{target} answers the LAN"

        found = world.json("h1", "bench", "h2", "--seconds", "0.5", "--streams", "2")
        assert found["schema"] == "shadowmesh.bench/1"
        assert (found["peer"], found["ip"], found["network"]) == ("h2", addresses["h2"], "demo")
        assert found["path_after"]["kind"] == "direct"
        assert 0 < found["round_trip"]["median_ms"] <= found["round_trip"]["p99_ms"] < 1000
        assert [(t["direction"], t["streams"]) for t in found["tcp"]] == [
            ("to", 1),
            ("to", 2),
            ("from", 1),
            ("from", 2),
        ]
        for test in found["tcp"]:
            assert test["mbit_per_s"] > 20
            assert test["cpu_s"]["pump"] > 0 and test["cpu_s_per_gb"] > 0
        (udp,) = found["udp"]
        assert udp["sent_per_s"] >= udp["received_per_s"] > 1000
        assert udp["lossless_per_s"] > 500

        only_back = world.run("h1", "bench", addresses["h2"], "--seconds", "0.3", "--streams", "1", "--reverse")
        assert "from h2" in only_back.stdout and "to h2" not in only_back.stdout
        assert "round trip: median" in only_back.stdout

        far.send_signal(signal.SIGINT)
        assert far.wait(10) == 0


def connects(address: str) -> bool:
    try:
        socket.create_connection((address, messages.PORT), 1).close()
    except OSError:
        return False
    return True
