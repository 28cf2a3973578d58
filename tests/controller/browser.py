"""Somebody at the web dashboard: a browser as far as cookies, forms and redirects go."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from shadowmesh.client_api.contact import first_contact

if TYPE_CHECKING:
    from people import Person

    from tests.controller.conftest import World

TOKEN = re.compile(r'name="token" value="([^"]+)"')


class Browser:
    """`token` is that of the last page's forms."""

    def __init__(self, world: World, client: httpx.AsyncClient) -> None:
        self.world = world
        self.client = client
        self.token = ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return self._seen(await self.client.get(path, headers=headers))

    async def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """The form of the page that was seen last, from a page of the same site."""
        sent = {"token": self.token} | (fields or {})
        answer = await self.client.post(path, data=sent, headers={"Origin": self.world.url} | headers)
        return self._seen(answer)

    def _seen(self, answer: httpx.Response) -> httpx.Response:
        if (found := TOKEN.search(answer.text)) is not None:
            self.token = html.unescape(found[1])
        return answer

    async def sign_in(self, who: Person, **more: str) -> httpx.Response:
        await self.get("/web/sign-in")
        answer = await self.post("/web/sign-in?next=/web/", {"email": who.email, "password": who.password} | more)
        if answer.status_code == 303:
            await self.get("/web/")
        return answer


@asynccontextmanager
async def browsing(world: World, who: Person | None = None) -> AsyncIterator[Browser]:
    """Signed in as `who`, where somebody is named."""
    contact = await asyncio.to_thread(first_contact, world.url, world.fingerprint)
    async with httpx.AsyncClient(base_url=world.url, verify=contact.tls, trust_env=False, timeout=20) as client:
        browser = Browser(world, client)
        if who is not None:
            answer = await browser.sign_in(who)
            assert answer.status_code == 303, answer.text
        yield browser
