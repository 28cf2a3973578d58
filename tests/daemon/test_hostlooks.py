"""Looks at the host's network that fail, or that find what has changed hands meanwhile; the kernel is played."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from shadowmesh.daemon import hostnet
from shadowmesh.daemon.hostnet import HostEvent, HostNet, HostSettled
from shadowmesh.host.hostnetwork import Applied, InterfaceConfig
from shadowmesh.model.addresses import IPAddress
from shadowmesh.model.hostaddresses import HostAddresses

FD = 10


class Kernel:
    """Takes the place of `HostNetwork`."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.going_on = threading.Event()
        self.going_on.set()
        self.failure: Exception | None = None
        self.looks = 0
        self.applied: list[InterfaceConfig] = []

    def is_here(self, name: str, applied_as: str) -> bool:
        self.looks += 1
        assert self.going_on.wait(5)
        if self.failure is not None:
            raise self.failure
        return True

    def apply(self, wanted: InterfaceConfig) -> Applied:
        self.applied.append(wanted)
        return Applied()

    def undo(self, name: str) -> None: ...

    def lans(self, ignore: Iterable[str]) -> list[Any]:
        return []

    def next_hops(self, addresses: Iterable[Any]) -> dict[Any, Any]:
        return {}

    def underlay(self, ignore: Iterable[str], in_use: Iterable[int]) -> HostAddresses:
        return HostAddresses()


def interface(name: str) -> InterfaceConfig:
    return InterfaceConfig(name, 1376, (ip_address("10.7.0.1"),), (ip_network("10.7.0.0/24"),))


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a thread's doing has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel()
    monkeypatch.setattr(hostnet, "HostNetwork", lambda netns: played)
    monkeypatch.setattr(hostnet, "tun_name", lambda fd: "first")
    return played


def test_what_a_look_saw_by_a_descriptors_number_is_not_told_of_its_next_owner(kernel: Kernel) -> None:
    async def play() -> None:
        told: list[HostEvent] = []
        host = HostNet(told.append, lambda address: False)
        host.configure(FD, interface("first"))
        kernel.going_on.clear()
        host._start_looking()
        await until(lambda: kernel.looks == 1)
        host.forget(FD)
        host.configure(FD, interface("second"))
        kernel.going_on.set()
        await until(lambda: HostSettled() in told)
        assert told == [HostSettled()]
        assert host._kept[FD].wanted.name == "second"
        assert host._timer is not None, "it is looked at again"
        host._timer.cancel()

    asyncio.run(play())


def test_an_address_that_becomes_a_members_is_looked_at_and_routed_around_no_more(kernel: Kernel) -> None:
    async def play() -> None:
        told: list[HostEvent] = []
        members: set[IPAddress] = set()
        host = HostNet(told.append, members.__contains__)
        host._watcher = object()  # type: ignore[assignment] - it has been started
        inside = ip_address("10.7.0.9")
        host.hold_outer("relay", [inside])
        host.configure(FD, interface("first"))
        assert kernel.applied[-1].around == {inside}
        await until(lambda: HostSettled() in told)
        looks = kernel.looks
        host.members_changed()
        assert host._timer is None, "nothing to look at"
        members.add(inside)
        host.members_changed()
        await until(lambda: kernel.looks > looks and host._looking is None)
        assert kernel.applied[-1].around == set()

    asyncio.run(play())


def test_after_a_look_that_fails_whyever_the_next_follows(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostnet, "_AFTER_FAILURE", 0.01)

    async def play() -> None:
        told: list[HostEvent] = []
        host = HostNet(told.append, lambda address: False)
        host.configure(FD, interface("first"))
        kernel.failure = ValueError("not enough values to unpack")
        host._start_looking()
        await until(lambda: kernel.looks > 1)
        kernel.failure = None
        await until(lambda: HostSettled() in told)

    asyncio.run(play())
