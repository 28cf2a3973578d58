"""The audit log against whoever can write to the database: what was changed, cut off or restamped is named."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.service.audit_log import audit_hash
from shadowmesh.controller.service.hub import encode
from shadowmesh.controller.service.witnesses import Witnesses, commitment_of
from shadowmesh.controller.settings import Timing
from shadowmesh.model.api import NetworkPatch
from shadowmesh.model.devicelink import KEPT_CHECKPOINTS, AuditCheckpoint, AuditQuery, AuditTestimony, LinkMessage
from shadowmesh.protocol.checkpoints import commitment, sign_checkpoint, verify_checkpoint
from shadowmesh.protocol.signing import Signer

if TYPE_CHECKING:
    from tests.controller.conftest import Device, World


class Witness:
    """A device that keeps checkpoints as the daemon does."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.silent = False
        self._answered = 0

    @property
    def kept(self) -> list[AuditCheckpoint]:
        return [e for e in self.device.events if isinstance(e, AuditCheckpoint)]

    async def testify(self) -> None:
        while True:
            await self.device.until(lambda: len(self._asked()) > self._answered)
            for query in self._asked()[self._answered :]:
                self._answered += 1
                if not self.silent:
                    self.say(AuditTestimony(nonce=query.nonce, checkpoints=tuple(self.kept)))

    def say(self, message: LinkMessage) -> None:
        assert self.device.link is not None
        self.device.link.post(message)

    def _asked(self) -> list[AuditQuery]:
        return [e for e in self.device.events if isinstance(e, AuditQuery)]


@pytest.fixture
async def witness(world: World) -> Any:
    await world.network()
    found = Witness(await world.member())
    task = asyncio.create_task(found.testify())
    yield found
    task.cancel()


async def told(world: World, witness: Witness) -> None:
    before = len(witness.kept)
    await world.at.witnesses.tell()
    await witness.device.until(lambda: len(witness.kept) > before)


async def some_entries(world: World, count: int = 5) -> None:
    for i in range(count):
        world.clock.advance(seconds=1)
        await world.call("client_set", "office", "laptop", tags=[f"t{i}"])


async def entries(world: World) -> list[Any]:
    found = await world.call("audit_list")
    return list(found)


def tamper(world: World, *statements: str) -> None:
    with sqlite3.connect(world.data_dir / "controller.db") as db:
        for statement in statements:
            db.execute(statement)


async def test_an_honest_log_is_vouched_for(world: World, witness: Witness) -> None:
    await some_entries(world)
    await told(world, witness)
    last = (await entries(world))[-1]
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.asked, verdict.witnesses, verdict.broken_at) == (True, 1, 1, None)
    assert verdict.vouched_for == last.seq


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET actor = 'somebody else' WHERE seq = 6",
        "UPDATE audit SET detail = '{}' WHERE seq = 6",
        "UPDATE audit SET at = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 6",
        "UPDATE audit SET at = 'yesterday' WHERE seq = 6",
        "UPDATE audit SET target = CAST(x'ff' AS TEXT) WHERE seq = 6",
        "UPDATE audit SET hash = '' WHERE seq = 6",
        "DELETE FROM audit WHERE seq = 6",
    ],
)
async def test_an_entry_changed_or_taken_out_is_named(world: World, witness: Witness, change: str) -> None:
    await some_entries(world)
    tamper(world, change)
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.broken_at, verdict.fault) == (False, 6, "changed")


async def test_a_chain_restamped_without_the_key_is_named_at_its_first_entry(world: World, witness: Witness) -> None:
    """Whoever has the database computes all hashes anew, by a key of their own."""
    await some_entries(world)
    foreign = KeyRing.generate().vault
    found = await entries(world)
    tamper(world, "UPDATE audit SET actor = 'somebody else' WHERE seq = 6")
    before = found[4].hash
    for entry in found[5:]:
        actor = "somebody else" if entry.seq == 6 else entry.actor
        before = audit_hash(foreign, before, entry.seq, entry.at, actor, entry.action, entry.target, "{}")
        tamper(world, f"UPDATE audit SET hash = '{before}', detail = '{{}}' WHERE seq = {entry.seq}")
    tamper(world, f"UPDATE audit_head SET hash = '{before}'")
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.broken_at, verdict.fault) == (False, 6, "changed")


def cut(world: World, last: int) -> None:
    tamper(
        world,
        f"DELETE FROM audit WHERE seq > {last}",
        f"UPDATE audit_head SET seq = {last}, hash = (SELECT hash FROM audit WHERE seq = {last})",
    )


async def test_a_log_cut_off_is_found_out_by_its_witnesses(world: World, witness: Witness) -> None:
    await some_entries(world)
    await told(world, witness)
    cut(world, (await entries(world))[-3].seq)
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.fault, verdict.witnesses) == (False, "missing", 1)
    assert verdict.broken_at == (await entries(world))[-1].seq + 1


async def test_a_log_cut_off_that_went_on_since_is_found_out_too(world: World, witness: Witness) -> None:
    """The chain holds in itself, with the controller's own key; the witnesses know another."""
    await some_entries(world, 2)
    await told(world, witness)
    kept = (await entries(world))[-1].seq
    await some_entries(world, 4)
    await told(world, witness)
    cut(world, kept + 1)
    await some_entries(world, 8)
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.broken_at, verdict.vouched_for) == (False, kept + 2, kept)


async def test_without_a_witness_a_cut_is_not_seen_and_the_verdict_says_how_many_there_were(world: World) -> None:
    await world.network()
    cut(world, (await entries(world))[-1].seq - 1)
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.asked, verdict.witnesses, verdict.vouched_for) == (True, 0, 0, None)


async def test_one_who_doesnt_answer_doesnt_hold_the_others_up(world: World, witness: Witness) -> None:
    witness.silent = True
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.asked, verdict.witnesses) == (True, 1, 0)


async def test_a_checkpoint_comes_only_after_a_change_and_only_where_somebody_is(
    world: World, witness: Witness
) -> None:
    await told(world, witness)
    count = len(witness.kept)
    await world.at.witnesses.tell()
    await some_entries(world, 1)
    await told(world, witness)
    assert len(witness.kept) == count + 1


async def test_a_checkpoint_of_a_key_that_the_identity_doesnt_vouch_for_is_dropped_by_a_client(
    world: World, witness: Witness
) -> None:
    """Not even the one that signs the maps may sign for the log; the link goes on."""
    (link,) = world.at.hub.devices.values()
    for signer in (Signer.generate(), world.at.context.keys.maps, world.at.context.keys.identity):
        link.post(encode(sign_checkpoint(signer, "00" * 32, 1.0)))
    await told(world, witness)
    (kept,) = witness.kept
    assert kept.key == world.at.context.keys.audit.public


async def test_verifying_believes_no_checkpoint_of_another_key(world: World, witness: Witness) -> None:
    """A member who makes up a later entry, or one for an entry that there is, has a log of nothing but truth called broken
    or vouched for by nobody's word."""
    await some_entries(world, 1)
    last = (await entries(world))[-1]
    true = commitment_of(world.at.context.keys.vault, last.seq, last.hash)
    later = last.at.timestamp() + 60
    made_up = [sign_checkpoint(signer, "00" * 32, later) for signer in (Signer.generate(), world.at.context.keys.maps)]
    made_up.append(sign_checkpoint(Signer.generate(), true, last.at.timestamp()))
    witness.device.events += made_up
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.witnesses, verdict.vouched_for) == (True, 1, None)


class TestPace:
    """How often a node commits to its log by itself."""

    PERIOD = 0.3

    @pytest.fixture
    def turns(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """The node's turns so far: whether it signed something."""
        signed: list[bool] = []

        def sign(*arguments: Any) -> AuditCheckpoint:
            signed[-1] = True
            return sign_checkpoint(*arguments)

        async def turn(witnesses: Witnesses) -> None:
            signed.append(False)
            await tell(witnesses)

        tell = Witnesses.tell
        monkeypatch.setattr(Witnesses, "tell", turn)
        monkeypatch.setattr("shadowmesh.controller.service.witnesses.sign_checkpoint", sign)
        return signed

    @pytest.fixture
    def timing(self, turns: list[bool]) -> Timing:
        return dataclasses.replace(Timing(), checkpoint=self.PERIOD)

    async def test_it_is_once_a_period_however_much_changes_and_never_without_a_change(
        self, world: World, witness: Witness, turns: list[bool]
    ) -> None:
        began, before = time.monotonic(), len(turns)
        while sum(turns) < 3:
            await some_entries(world, 1)
        assert len(turns) - before <= (time.monotonic() - began) / self.PERIOD + 1
        quiet = len(turns) + 1  # the turn from which on all that changed has been told
        async with asyncio.timeout(20):
            while len(turns) < quiet + 4:  # noqa: ASYNC110 - the node's turns have no event here
                await asyncio.sleep(0.01)
        assert not any(turns[quiet:])

    def test_the_period_is_a_minute(self) -> None:
        assert Timing().checkpoint == 60.0


async def test_a_few_of_many_are_told_and_always_the_same(world: World) -> None:
    await world.network()
    devices = [await world.member() for _ in range(6)]

    def told_once_more() -> list[int]:
        return sorted(sum(isinstance(e, AuditCheckpoint) for e in d.events) for d in devices)

    for times in (1, 2, 3):
        await world.call("network_set", "office", NetworkPatch(description=str(times)))
        await world.at.witnesses.tell()
        async with asyncio.timeout(5):
            while told_once_more() != [0, 0, 0, times, times, times]:  # noqa: ASYNC110 - of six devices, three hear
                await asyncio.sleep(0.01)


async def test_clients_learn_no_number(world: World, witness: Witness) -> None:
    """The same head committed to twice is the same; what it says can't be tried out without the salt."""
    await told(world, witness)
    (checkpoint,) = witness.kept
    last = (await entries(world))[-1]
    assert set(checkpoint.__struct_fields__) == {"key", "commitment", "at", "signature"}
    guesses = {commitment(bytes(32), seq, bytes.fromhex(last.hash)) for seq in range(last.seq + 10)}
    assert checkpoint.commitment not in guesses


async def test_an_answer_counts_once_and_from_who_was_asked(world: World, witness: Witness) -> None:
    await some_entries(world, 1)
    await told(world, witness)
    (checkpoint,) = witness.kept
    forged = sign_checkpoint(Signer.generate(), "00" * 32, 1.0)
    for nonce in ("", "ff" * 16):
        witness.say(AuditTestimony(nonce=nonce, checkpoints=(checkpoint,)))
    witness.device.events.append(forged)  # kept as if it were the controller's
    verdict = await world.call("audit_verify")
    assert (verdict.ok, verdict.witnesses) == (True, 1)


def test_a_checkpoint_is_signed_by_an_audit_key() -> None:
    signer = Signer.generate()
    good = sign_checkpoint(signer, "ab" * 32, 1.5)
    assert verify_checkpoint(good, {signer.public})
    assert not verify_checkpoint(good, {Signer.generate().public})
    changes: list[Callable[[AuditCheckpoint], AuditCheckpoint]] = [
        lambda c: AuditCheckpoint(key=c.key, commitment="ac" * 32, at=c.at, signature=c.signature),
        lambda c: AuditCheckpoint(key=c.key, commitment=c.commitment, at=2.5, signature=c.signature),
        lambda c: AuditCheckpoint(key=c.key, commitment="x", at=c.at, signature=c.signature),
        lambda c: AuditCheckpoint(key=c.key, commitment=c.commitment, at=c.at, signature=""),
    ]
    assert not any(verify_checkpoint(change(good), {signer.public}) for change in changes)
    assert KEPT_CHECKPOINTS == 100
