"""What can't be saved counts all the same: removals and rotations act on a full disk and with a held database."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemonkit import Controller, Machine, controller, refused, until

from shadowmesh.daemon import keeper, maplog
from shadowmesh.daemon.daemon import ASK_FIRST
from shadowmesh.daemon.join import enrol
from shadowmesh.daemon.state import NetworkRecord, State
from shadowmesh.model.errors import Kind, ShadowMeshError

Trouble = Callable[[Machine], Iterator[None]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper.Keeper.__init__, "__defaults__", (0.1,))


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path) as running:
        await running.network("office")
        yield running


@contextmanager
def full(machine: Machine) -> Iterator[None]:
    """The disk takes no more: what SQLite would have to write finds no page, and a file can't grow."""

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    db = machine.daemon.state._db
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS filler (x)")
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    triggers = [f"{verb} ON {table}" for table in ("networks", "former", "epoch_keys") for verb in ("INSERT", "UPDATE")]
    for number, when in enumerate(triggers):
        db.execute(
            f"CREATE TEMP TRIGGER full_{number} BEFORE {when} BEGIN INSERT INTO filler VALUES (zeroblob(1000000)); END"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maplog, "_write", no_space)
        patch.setattr(maplog, "write_private", no_space)
        yield
    if machine.running:
        for number in range(len(triggers)):
            db.execute(f"DROP TRIGGER full_{number}")


@contextmanager
def held(machine: Machine) -> Iterator[None]:
    """Another process has begun to write, and doesn't end."""
    db = sqlite3.connect(machine.directory / "state.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("ROLLBACK")
    db.close()


troubles = pytest.mark.parametrize("trouble", [full, held])


@troubles
async def test_a_removed_member_is_cut_off_though_nothing_can_be_saved(there: Controller, trouble: Trouble) -> None:
    a, b = await there.member("a"), await there.member("b")
    assert await a.reaches(b) and await b.reaches(a)
    with trouble(a):
        serial = a.network().map.serial  # type: ignore[union-attr]
        await there.call("client_remove", "office", "b")
        await until(lambda: a.network().map.serial > serial)  # type: ignore[union-attr]
        assert await refused_to_speak(a)
        await until(lambda: a.daemon.keeper.warning)
        (warning,) = (await a.status()).warnings
        assert "not everything is saved" in warning and "move it away" not in warning
        epochs = len(a.network().keys)
        await there.call("network_rotate_key", "office")
        await until(lambda: len(a.network().keys) > epochs)
    await until(lambda: a.daemon.keeper.warning is None)
    assert (await a.status()).warnings == ()
    await a.restart()
    assert len(a.network().map.members) == 1 and len(a.network().keys) > epochs  # type: ignore[union-attr]


async def refused_to_speak(a: Machine) -> bool:
    """Whether the pump has no peer left to send to."""
    return not a.pumps[0].core.peers


@troubles
async def test_a_machine_that_was_removed_stops_though_that_cant_be_saved(there: Controller, trouble: Trouble) -> None:
    a = await there.member("a")
    with trouble(a):
        await there.call("client_remove", "office", "a")
        await until(lambda: not a.daemon.networks)
        assert a.host.interfaces == {} and not a.pumps[0].core.peers
        assert (await a.network_status()).state == "removed"
        await a.stop()  # as SIGTERM: no error
    assert not is_current(a)
    await a.start()
    assert a.network().run_state == "error" and a.host.interfaces == {}, "the old map isn't used unasked"
    await until(lambda: not a.daemon.networks)
    assert (await a.network_status()).state == "removed"
    await a.restart()
    assert a.daemon.networks == {} and is_current(a)


async def test_without_an_answer_the_old_map_is_used_after_a_moment(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await there.member("a")
    await a.stop()
    (a.directory / "current").unlink()
    monkeypatch.setattr("shadowmesh.daemon.daemon.ASK_FIRST", 2.0)
    assert ASK_FIRST == 3.0
    with there.unreachable():
        await a.start()
        assert a.host.interfaces == {}
        await until(lambda: a.network().run_state == "up")
        assert not is_current(a), "its controller hasn't been heard"
    a.links[-1].kick()
    await until(lambda: is_current(a))


async def test_down_works_and_says_what_is_missing(there: Controller) -> None:
    a = await there.member("a")
    with held(a):
        error = await refused(a.client.call("down", network="office"))
        assert error.code == "not_saved" and a.host.interfaces == {}


async def test_a_held_database_is_no_reason_to_move_ones_identity_away(tmp_path: Path) -> None:
    state = State(tmp_path)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ShadowMeshError) as caught:
        state.set_port(1)
    assert caught.value.code == "state_held" and "move" not in str(caught.value)
    other.close()
    state.set_port(1)
    state.close()


def is_current(machine: Machine) -> bool:
    return (machine.directory / "current").exists()


async def test_another_identity_waits_for_a_join_under_way(there: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its membership would be of a key that is gone."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any, **options: Any) -> NetworkRecord:
        begun.set()
        assert go_on.wait(30)
        return enrol(*arguments, **options)

    monkeypatch.setattr("shadowmesh.daemon.methods.enrol", slow)
    a = await there.machine("a")
    joining = asyncio.create_task(a.join(await there.invite()))
    await until(begun.is_set)
    try:
        error = await refused(a.client.call("reset_identity"))
    finally:
        go_on.set()
    assert (error.code, error.kind) == ("busy", Kind.CONFLICT) and "a join is under way" in error.what
    assert (await joining).state == "up"
    assert await a.client.call("reset_identity") == {"networks": ["office"]}


async def test_another_identity_that_cant_be_saved_leaves_this_one_as_it_was(there: Controller) -> None:
    a, b = await there.member("a"), await there.member("b")
    with held(a):
        await refused(a.client.call("reset_identity"))
    assert a.network().run_state == "up" and await a.reaches(b)
    links = len(a.links)
    await until(lambda: a.links[links - 1].connected)


async def test_a_daemon_too_busy_to_look_at_its_host_says_so_and_the_invite_stays_good(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(asked: Coroutine[Any, Any, None], _loop: object) -> Future[None]:
        asked.close()
        return Future()

    a, invite = await there.machine("a"), await there.invite()
    with monkeypatch.context() as patch:
        patch.setattr("shadowmesh.daemon.methods._CHECK", 0.01)
        patch.setattr("shadowmesh.daemon.methods.asyncio.run_coroutine_threadsafe", never)
        error = await refused(a.join(invite))
    assert (error.code, error.kind) == ("busy", Kind.CONFLICT) and "the invite is as good as before" in error.remedy
    assert (await a.join(invite)).state == "up"


async def test_starts_on_a_disk_that_takes_nothing_use_no_handshake_timestamp_twice(
    there: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ShadowMeshError("state_unwritable", "the state can't be written")

    a = await there.member("a")
    await a.crash()
    used = b""
    with monkeypatch.context() as patch:
        patch.setattr(State, "keep_timestamp", refuse)
        for _ in range(3):
            a.wall_shift += 1.0
            await a.start()
            timestamps = a.daemon.mesh.node._timestamps
            assert timestamps.next(a.clock().wall) > used
            for _ in range(500):
                used = timestamps.next(a.clock().wall)
            await a.crash()
    a.wall_shift += 1.0
    await a.start()
    assert a.daemon.mesh.node._timestamps.next(a.clock().wall) > used, "also once it can be kept again"


async def test_another_identity_owes_the_old_one_nothing(there: Controller) -> None:
    """What was in doubt of it, and what waited to be saved, is void."""
    a = await there.member("a")
    a.daemon.keeper.doubt([a.network().id])
    with held(a):
        a.network().change(wanted=False)
        assert a.daemon.keeper.warning is not None and not a.daemon.state.is_current
    await a.client.call("reset_identity")
    assert a.daemon.state.is_current and a.daemon.keeper.warning is None
    await a.restart()
    assert a.daemon.state.is_current


class TestKeeper:
    """Writes that wait: none waits for another."""

    @pytest.fixture
    def state(self, tmp_path: Path) -> Iterator[State]:
        found = State(tmp_path)
        yield found
        found.close()

    @pytest.mark.parametrize("error", [ShadowMeshError("disk_full", "no space"), ZeroDivisionError("a fault of ours")])
    async def test_one_that_keeps_failing_holds_up_no_other(self, state: State, error: Exception) -> None:
        written: list[str] = []
        failing = True

        def bad() -> None:
            if failing:
                raise error
            written.append("bad")

        one = keeper.Keeper(state, lambda: None)
        assert not one.keep(None, "bad", bad)
        assert one.keep(None, "good", lambda: written.append("good"))
        assert written == ["good"] and one.warning is not None and not state.is_current
        failing = False
        await until(lambda: one.warning is None)
        assert written == ["good", "bad"] and state.is_current
        one.stop()

    async def test_many_that_cost_time_to_fail_have_their_turns_without_standing_in_the_way(
        self, state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [0.0]
        monkeypatch.setattr(keeper.time, "monotonic", lambda: clock[0])
        tried: list[int] = []

        def slow(number: int) -> Callable[[], None]:
            def write() -> None:
                clock[0] += 0.1
                tried.append(number)
                raise ShadowMeshError("state_held", "held")

            return write

        one = keeper.Keeper(state, lambda: None)
        for number in range(9):
            one.keep(None, number, slow(number))
        tried.clear()
        for turn in range(1, 6):
            assert not one.write()
            assert 2 * turn <= len(tried) <= 3 * turn
        assert tried[:9] == list(range(9))
        tried.clear()
        one.stop()
        assert sorted(tried) == list(range(9))
