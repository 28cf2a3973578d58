"""Two controllers on one PostgreSQL: what is taken away at one ends at the other, within a second."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from people import person

from shadowmesh.controller.service import revocations
from shadowmesh.controller.store import schema
from shadowmesh.model import api
from shadowmesh.model.link import Removed

if TYPE_CHECKING:
    from tests.controller.conftest import World

pytestmark = pytest.mark.lab


async def test_rights_taken_away_at_one_node_end_connections_at_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    ann = dataclasses.replace(await person(one, "ann", {"office": "member"}), world=two)
    bob = dataclasses.replace(await person(one, "bob", {"office": "member"}), world=two)
    async with ann.watching(network_id="office") as hers, bob.watching() as his:
        await one.call("member_remove", "office", ann.email)
        await one.call("user_set", bob.email, api.UserPatch(disabled=True))
        began = time.monotonic()
        assert await hers.ended() == (4003, "network_unknown")
        assert await his.ended() == (4401, "not_signed_in")
        assert time.monotonic() - began < two.at.core.timing.follow + 2.0, "it is polled for, not found by chance"


async def test_a_client_removed_at_one_node_is_cut_off_at_the_other(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    gone = await two.member(name="gone")
    await one.call("client_remove", "office", "gone")
    assert (await gone.until_event(Removed)).reason == "removed"


async def test_a_device_that_joins_again_at_once_is_not_cut_off_by_its_own_removal(nodes: tuple[World, World]) -> None:
    one, two = nodes
    await one.network()
    device = two.device()
    await device.join((await one.invite()).invite)
    before = two.at.following._done
    await one.call("client_remove", "office", "laptop")
    await device.join((await one.invite()).invite)
    await (await device.connect()).settled()
    two.at.following._done = before  # as if the other node's poll came only now
    await two.at.follow()
    assert not [e for e in device.events if isinstance(e, Removed)]


async def test_revocations_are_numbered_as_they_are_committed(nodes: tuple[World, World]) -> None:
    """Who has read up to a number misses none below it, whatever transactions were open meanwhile."""
    one, two = nodes
    await person(one, "ann")
    store = one.at.core.store.engine
    user = (await one.call("user_list"))[0].id
    with store.connect() as slow, slow.begin():
        revocations.rights_changed(one.at.core, slow, user)
        with store.connect() as other, other.begin():
            other.exec_driver_sql("SET LOCAL lock_timeout = '200ms'")
            with pytest.raises(sa.exc.OperationalError):
                revocations.rights_changed(two.at.core, other, user)
    with store.connect() as conn:
        numbers = list(conn.execute(sa.select(schema.revocations.c.id).order_by(schema.revocations.c.id)).scalars())
        assert numbers == list(range(1, len(numbers) + 1)) and revocations.newest(conn) == numbers[-1]
