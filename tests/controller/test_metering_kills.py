"""A relay and its controller, killed at seeded moments: each byte counts once, and a kill of the relay loses no more than what it
counted in one interval."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from countingrelay import Truth
from test_kills import PROOF, Controller, controllers

from shadowmesh.client_api.enroll import enroll, parse_invite
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.controller.initialise import InitResult
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import database_url, make_engine
from shadowmesh.model.api import InviteCreate, NetworkCreate
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import Signer

__all__ = ["controllers"]  # a fixture

RELAY = Path(__file__).with_name("countingrelay.py")


class Relay:
    """The process, started again and again on one directory. `kept`: what is on disk of all that were killed, at least and at most."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.arguments, self.truth = folder, arguments, folder.parent / "truth"
        self.process: subprocess.Popen[str] | None = None
        self.kept = [0, 0]
        self.used = self.kills = 0

    def start(self, token: str) -> subprocess.Popen[str]:
        url, fingerprint, client = self.arguments
        command = [sys.executable, str(RELAY), str(self.folder), url, fingerprint, token, client, str(self.truth)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "counting\n"
        return self.process

    def kill(self) -> None:
        assert self.process is not None and self.process.poll() is None
        self.process.kill()
        self.process.communicate()
        truth = Truth.read(self.truth)
        assert truth.before <= truth.saved <= truth.looked <= truth.used, (
            "what was looked at was saved before the next look"
        )
        self.kept[0] += truth.saved
        self.kept[1] += truth.looked
        self.used += truth.used
        self.kills += 1

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.mark.parametrize(("seed", "kills"), [(1, 2), pytest.param(2, 100, marks=PROOF, id="hundred")])
async def test_each_byte_counts_once_and_a_kill_loses_one_interval(
    data_dir: Path,
    template: tuple[Path, InitResult],
    tmp_path: Path,
    controllers: Callable[[Path], Controller],
    seed: int,
    kills: int,
    record_property: Any,
) -> None:
    chance, controller = random.Random(seed), controllers(data_dir)
    await controller.ready()

    def prepare() -> tuple[str, str]:
        with ControllerClient.local(data_dir) as client:
            client.network_create(NetworkCreate(name="office", subnet="10.42.0.0/24"))
            invite, keys = client.invite_create("office", InviteCreate()).invite, generate_sealing_keys()
            machine = {"wg_private": generate_private_key(), "sealing_private": keys[0]}
            answer = enroll(parse_invite(invite), device=Signer.generate(), **machine).answer
            return client.relay_token().token, answer.client_id

    token, client = await asyncio.to_thread(prepare)
    relay = Relay(tmp_path / "relay", controller.url, template[1].fingerprint, client)
    try:
        await asyncio.to_thread(relay.start, token)
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            whom = chance.choice(["relay", "controller", "both"]) if number else "both"
            if whom != "relay":
                controller.end()
            if whom != "controller":
                relay.kill()
                await asyncio.to_thread(relay.start, token)
            if whom != "relay":
                await controller.ready()
        relay.kill()
        last = await asyncio.to_thread(relay.start, "")
        assert await asyncio.to_thread(last.wait, 60) == 0
    finally:
        relay.end()
    engine = make_engine(database_url(None, data_dir / "controller.db"), read_only=True)
    with engine.begin() as conn:
        for table in (schema.usage_hours, schema.usage_days):
            counted = conn.execute(sa.select(sa.func.sum(table.c.relayed_sent))).scalar_one()
            assert relay.kept[0] <= counted <= relay.kept[1]
    engine.dispose()
    assert counted > 0
    record_property("kills", f"{kills}, of the relay {relay.kills}")
    record_property("bytes used, counted", f"{relay.used}, {counted}")
