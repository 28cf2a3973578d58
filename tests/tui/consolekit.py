"""A real controller as a process of its own, machines that join it, and the app as it looks at it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clikit import Running, in_process, start
from freeport import free_port
from textual.pilot import Pilot
from tuikit import Until

from shadowmesh.client_api import enroll as enrolment
from shadowmesh.client_api.link import Connected, ControllerLink, MapChanged
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model import accounts, api
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import Signer
from shadowmesh_tui.app import ShadowMeshApp, system_now
from shadowmesh_tui.console.follower import Pace

QUICK = Pace(gather=0.02, figures=0.5, all_again=60.0, first_wait=0.1, longest_wait=0.3)


@dataclass
class Site:
    """A controller that runs. `api` asks it as the local administrator."""

    home: Path
    data_dir: Path
    url: str
    fingerprint: str
    running: Running

    @contextmanager
    def api(self) -> Iterator[ControllerClient]:
        with ControllerClient.local(self.data_dir) as client:
            yield client

    def network(self, name: str, **options: object) -> api.NetworkCreated:
        with self.api() as client:
            return client.network_create(api.NetworkCreate(name=name, **options))  # type: ignore[arg-type]

    def stop(self) -> None:
        self.running.stop()

    def start(self) -> None:
        self.running = start(self.home, "controller", "run", "--data-dir", self.data_dir)
        self.running.until("controller ready")

    def join(self, network: str, name: str) -> Machine:
        """Blocks."""
        with self.api() as client:
            invite = client.invite_create(network, api.InviteCreate()).invite
        machine = Machine(self, Signer.generate())
        machine.join(invite, name)
        return machine

    def person(
        self, email: str, password: str, role: str | None = None, network: str = "", *, admin: bool = False
    ) -> None:
        """Somebody with this password, and a role in a network."""
        with self.api() as client:
            made = client.user_create(accounts.UserCreate(email=email, admin=admin))
            if role is not None:
                client.member_set(network, api.MemberPut(email=email, role=role))  # type: ignore[arg-type]
        login = accounts.Login(email=email, password=made.password, new_password=password)
        with self.api() as client:
            client._send("POST", "/auth/login", login)


@dataclass
class Machine:
    """A machine that joined, with its keys."""

    site: Site
    signer: Signer
    result: enrolment.EnrolResult | None = None

    def join(self, invite: str, name: str) -> None:
        self.wg = generate_private_key()
        self.sealing, _ = generate_sealing_keys()
        parsed = enrolment.parse_invite(invite, controller=self.site.url, fingerprint=self.site.fingerprint)
        self.result = enrolment.enroll(
            parsed, device=self.signer, wg_private=self.wg, sealing_private=self.sealing, hostname=name, name=name
        )

    @property
    def client_id(self) -> str:
        assert self.result is not None
        return self.result.answer.client_id

    @asynccontextmanager
    async def online(self) -> AsyncIterator[ControllerLink]:
        """Its link is up while the block lasts."""
        assert self.result is not None
        answer = self.result.answer
        link = ControllerLink(
            urls=(self.site.url,),
            fingerprint=self.site.fingerprint,
            device=self.signer,
            boot_id="boot-1",
            identity=self.result.contact.identity,
            maps=(answer.map.apply(None),) if answer.map is not None else (),
            networks=(answer.network_id,),
            keys=lambda _: {},
            wall=time.time,
        )
        there = asyncio.Event()

        async def listen() -> None:
            async for event in link.run():
                if isinstance(event, MapChanged | Connected):
                    there.set()

        task = asyncio.create_task(listen())
        try:
            async with asyncio.timeout(10):
                await there.wait()
            yield link
        finally:
            await link.close()
            task.cancel()


@contextmanager
def site(home: Path, name: str = "controller") -> Iterator[Site]:
    """A controller of its own while the block lasts."""
    data_dir, url = home / name, f"https://127.0.0.1:{free_port()}"
    listen = ("--listen", url.removeprefix("https://"))
    made = in_process(home, "controller", "init", "--data-dir", data_dir, "--public-url", url, *listen, "--json")
    first = made.document("controller-init/1")
    running = start(home, "controller", "run", "--data-dir", data_dir)
    found = Site(home, data_dir, url, str(first["fingerprint"]), running)
    try:
        running.until("controller ready")
        yield found
    finally:
        found.stop()


def app_at(found: Site, state_dir: Path, **options: object) -> ShadowMeshApp:
    """The app with the controller of this host on its screen."""
    return ShadowMeshApp(
        state_dir,
        data_dir=found.data_dir,
        refresh_s=0.02,
        retry_s=0.5,
        pace=QUICK,
        clock=system_now,
        **options,  # type: ignore[arg-type]
    )


def screen_text(app: ShadowMeshApp) -> str:
    """What is on the screen, line by line."""
    return "\n".join("".join(s.text for s in strip).rstrip() for strip in app.screen._compositor.render_strips())


Shown = Callable[[str], Awaitable[None]]


def shows(app: ShadowMeshApp, pilot: Pilot[None], until: Until) -> Shown:
    """`await shown("words")` waits until they stand on the screen."""

    async def wait(words: str) -> None:
        try:
            await until(pilot, lambda: words in screen_text(app))
        except AssertionError:
            raise AssertionError(f"{words!r} doesn't stand in\n{screen_text(app)}") from None

    return wait


async def off(function: Callable[..., object], *arguments: object, **options: object) -> object:
    return await asyncio.to_thread(partial(function, *arguments, **options))


def totp(secret: str) -> str:
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(time.time() // 30)), "sha1").digest()
    at_ = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at_ : at_ + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


__all__ = ["QUICK", "Machine", "Site", "app_at", "off", "screen_text", "shows", "site", "threading", "totp"]
