"""An honest user and an honest device, in a process of their own: for each line `N` on stdin, how N seconds were for them, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import httpx
from conftest import Clock, Device, World

from shadowmesh.client_api.contact import first_contact
from shadowmesh.controller.initialise import InitResult


async def until_tagged(member: Device, tag: str) -> None:
    await member.until_map(lambda m: any(tag in peer.tags for peer in m.members))


async def seconds_of(world: World, member: Device, seconds: float, key: str) -> dict[str, list[float]]:
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    rest: list[float] = []
    link: list[float] = []
    end = time.monotonic() + seconds

    async def ask() -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            async with httpx.AsyncClient(verify=contact.tls, trust_env=False, timeout=10) as http:
                answer = await http.get(f"{world.url}/api/v1/networks", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
            rest.append(time.monotonic() - began)
            await asyncio.sleep(0.05)

    async def change() -> None:
        count = 0
        while time.monotonic() < end:
            count += 1
            tag, began = f"t{count}-{int(began_at)}", time.monotonic()
            await world.call("client_set", "office", "laptop", tags=[tag])
            await until_tagged(member, tag)
            link.append(time.monotonic() - began)
            await asyncio.sleep(0.2)

    began_at = time.monotonic()
    await asyncio.gather(ask(), change())
    return {"rest": rest, "link": link}


async def main() -> None:
    data_dir, url, fingerprint, key = sys.argv[1:]
    first = InitResult("", "", key, fingerprint, (url,))
    world = World(None, url, Path(data_dir), first, Clock())  # type: ignore[arg-type]
    await world.network()
    member = await world.member()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await seconds_of(world, member, float(line), key)), flush=True)
    await member.close()


if __name__ == "__main__":
    asyncio.run(main())
