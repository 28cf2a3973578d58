"""A controller that moves is followed: what it announces is kept, by machines that run and by those that start later."""

from __future__ import annotations

import time
from pathlib import Path

from daemonkit import Lan, _made_before, running, until
from freeport import free_port

from shadowmesh.controller.initialise import set_urls
from shadowmesh.controller.settings import FORMER_URL_LIFE, DataDir, Settings, write_settings


async def test_a_controller_that_moves_is_followed(tmp_path: Path) -> None:
    lan, where = Lan(), DataDir(tmp_path / "controller")
    first = _made_before("controller", where.path)
    old, new = (f"https://127.0.0.1:{free_port()}" for _ in range(2))
    write_settings(where.config, Settings(public_urls=(old,), listen=old.removeprefix("https://")))
    async with running(tmp_path, where, first, lan, where.read()) as there:
        await there.network("office")
        a, b = await there.member("a"), await there.member("b")
        asleep = await there.member("asleep")
        await there.network("lab", "10.50.0.0/24")
        await b.join(await there.invite("lab"))
        await asleep.stop()

    announced = set_urls(where.path, (new, old))  # the new place isn't there yet
    assert announced.former_urls == ()
    async with running(tmp_path, where, first, lan, where.read()) as there:
        for machine in (a, b):
            await until(lambda machine=machine: new in machine.network().identity.urls)  # type: ignore[misc]
        await a.stop()

    moved = set_urls(where.path, (new,))
    assert [f.url for f in moved.former_urls] == [old]
    write_settings(where.config, Settings(public_urls=(new,), former_urls=moved.former_urls, listen=new[8:]))
    async with running(tmp_path, where, first, lan, where.read()) as there:
        await until(lambda: b.network().connected and b.network("lab").connected)
        await a.start()
        await until(lambda: a.network().connected)
        assert a.network().identity.urls == (new, old), "for those that were asleep the old one is announced on"
        assert await a.reaches(b)
        for machine in (a, b):
            await machine.stop()


def test_a_url_that_was_given_up_is_announced_for_its_time() -> None:
    settings = Settings(public_urls=("https://a", "https://b"), listen="0.0.0.0:1")
    moved = settings.moved_to(("https://c",), 1000.0)
    assert moved.announced_urls == ("https://c", "https://a", "https://b")
    assert moved.moved_to(("https://a",), 2000.0).announced_urls == ("https://a", "https://c", "https://b")
    later = 1000.0 + FORMER_URL_LIFE
    assert moved.without_what_ran_out(later - 1).announced_urls == moved.announced_urls
    assert moved.without_what_ran_out(later).announced_urls == ("https://c",)
    assert moved.moved_to(("https://d",), time.time()).announced_urls[:2] == ("https://d", "https://c")
