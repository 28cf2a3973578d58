"""The README's blocks, exactly as they are printed, on hosts that have nothing but a network between them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowmesh.lab.internet import Host, Lab
from shadowmesh.lab.plan import LabSpec

pytestmark = pytest.mark.lab

README = Path(__file__).parents[2] / "README.md"
SECTION = "## A network in five minutes"


def blocks() -> list[str]:
    """The section's code blocks: one for the controller's host, one for each machine."""
    section = README.read_text().partition(SECTION)[2].partition("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


class Newcomer:
    """Somebody at a shell of a fresh host: a name and a /var/lib of its own, `shadowmesh` on the path."""

    def __init__(self, host: Host, name: str, home: Path) -> None:
        home.mkdir()
        self.name, self.home, self._host = name, home, host
        fresh = f"mount -t tmpfs none /var/lib && hostname {name} && echo ready && exec sleep infinity"
        self._holder = host.popen(
            ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", fresh], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None and b"ready" in bytes(self._holder.stdout.readline())

    def types(self, text: str, timeout: float = 120.0) -> tuple[int, str]:
        """Pastes this into a shell. Returns its exit code (the first line that fails ends it), and what was on the screen."""
        screen = self.home / "screen"
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        inside = ["nsenter", "-t", str(self._holder.pid), "--mount", "--uts", "env", "-i", f"PATH={path}"]
        with screen.open("ab") as out:
            out.truncate(0)
            shell = self._host.popen(
                [*inside, f"HOME={self.home}", "bash", "-e", "-c", f"cd ~\n{text}"], stdout=out, stderr=out
            )
            code = shell.wait(timeout)
        return code, screen.read_text(errors="replace")

    def does(self, text: str) -> str:
        code, seen = self.types(text)
        assert code == 0, f"on {self.name}:\n{text}\n→ {code}\n{seen}"
        return seen

    def json(self, text: str) -> Any:
        """The document that the command prints (the roles that run write to the same screen)."""
        lines = self.does(text).splitlines()
        return next(document for line in lines if '"schema"' in line and (document := json.loads(line)))


@pytest.fixture
def hosts(lab_factory: Callable[[LabSpec], Lab], tmp_path: Path) -> Iterator[tuple[Newcomer, Newcomer]]:
    lab = lab_factory(LabSpec(public=2))
    yield tuple(Newcomer(lab.host(f"public{i}"), name, tmp_path / name) for i, name in ((1, "server"), (2, "laptop")))  # type: ignore[misc]


def test_the_first_five_minutes(hosts: tuple[Newcomer, Newcomer]) -> None:
    server, laptop = hosts
    on_the_controllers_host, on_each_machine = blocks()
    seen = server.does(on_the_controllers_host)
    assert "fingerprint" in seen and "password" in seen
    seen = server.does(on_each_machine)
    assert "home: up as server, 10.100.0.1" in seen or "home: joined as server, 10.100.0.1" in seen, seen
    (laptop.home / "invite").write_text((server.home / "invite").read_text())
    assert "server" in laptop.does(on_each_machine)
    laptop.does("shadowmesh wait server --state direct --timeout 30")
    assert "direct" in laptop.does("shadowmesh ping server --until-direct")
    assert [p["name"] for p in server.json("shadowmesh peers --json")["peers"]] == ["laptop"]
    (relay,) = server.json("shadowmesh relay list --json")["relays"]
    assert relay["online"]
