"""`client_api.eventstream`: what happens, as the terminal interface hears it; and calls that don't hold its loop up."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from people import person

from shadowmesh.client_api import logins, signin
from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.eventstream import Subscribed, watch
from shadowmesh.client_api.offloop import ControllerCalls, in_thread
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import Event
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from tests.controller.conftest import World


async def first_event(client: ControllerClient, cause: Any, **wish: Any) -> Event:
    """The first that is told after `cause`."""
    async with asyncio.timeout(8), aclosing(watch(client, **wish)) as told:
        assert isinstance(await anext(told), Subscribed)
        await cause
        event = await anext(told)
        assert isinstance(event, Event)
        return event


async def test_what_happens_is_told_at_the_socket(world: World) -> None:
    await world.network()
    with ControllerClient.local(world.data_dir) as client:
        event = await first_event(client, world.network("lab", "10.43.0.0/24"))
        assert (event.type, event.data["name"]) == ("network_changed", "lab")
        async with asyncio.timeout(8), aclosing(watch(client, since=event.seq - 1)) as told:
            assert await anext(told) == Subscribed(event.seq - 1)
            assert await anext(told) == event


async def test_a_token_that_has_run_out_is_renewed_and_one_that_ended_is_not(world: World, login_home: Path) -> None:
    await world.network()
    ann = await person(world, "ann", {"office": "owner"})
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    await asyncio.to_thread(lambda: signin.login(contact, email=ann.email, password=ann.password))
    with logins.locked():
        logins.keep(logins.load().model_copy(update={"token": "worn-out"}))
    with ControllerClient.saved() as client:
        event = await first_event(client, world.call("network_rotate_key", "office"), network="office")
        assert event.data["change"] == "key_rotated"
    with logins.locked():
        logins.keep(logins.load().model_copy(update={"token": "worn-out", "refresh_token": "too"}))
    with ControllerClient.saved() as client, pytest.raises(ShadowMeshError) as refused:
        await anext(watch(client))
    assert (refused.value.code, refused.value.kind) == ("not_signed_in", Kind.NOT_ALLOWED)


async def test_a_controller_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with ControllerClient.local(tmp_path) as client, pytest.raises(ShadowMeshError) as away:
        await anext(watch(client))
    assert away.value.code == "controller_unreachable"


async def test_what_is_asked_for_and_not_visible_is_refused_in_words(world: World, login_home: Path) -> None:
    ann = await person(world, "ann")
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    await asyncio.to_thread(lambda: signin.login(contact, email=ann.email, password=ann.password))
    with ControllerClient.saved() as client, pytest.raises(ShadowMeshError) as refused:
        await anext(watch(client, network="office"))
    assert refused.value.code == "network_unknown"


async def test_calls_go_on_beside_each_other_and_errors_come_back(world: World) -> None:
    calls = ControllerCalls(lambda: ControllerClient.local(world.data_dir), threads=2)
    stuck = threading.Event()
    waiting = asyncio.create_task(calls(lambda _client: stuck.wait(8)))
    assert (await calls(lambda client: client.whoami())).name == "local"
    with pytest.raises(ShadowMeshError, match="there is no network"):
        await calls(lambda client: client.network_show("nowhere"))
    with pytest.raises(ZeroDivisionError):
        await calls(lambda _client: 1 // 0)
    assert (await calls(lambda client: client.whoami())).name == "local"
    stuck.set()
    assert await waiting
    calls.close()
    with pytest.raises(RuntimeError):
        await calls(lambda client: client.whoami())


async def test_what_nobody_waits_for_any_more_is_dropped() -> None:
    go = threading.Event()
    task = asyncio.create_task(in_thread(lambda: go.wait(8)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await in_thread(lambda: 7) == 7
