"""What is done to a controller while it is killed, what of that was answered, and what has to be so afterwards.

Each worker does one thing after another until nobody answers. What was sent then and not answered is in doubt: it was done
whole, or not at all. Sent again, it is done once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shadowmesh.client_api.enroll import enroll, parse_invite
from shadowmesh.controller.store import schema, sequences
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import Signer

BASE = "base"  # the network that machines come to
_PATIENCE = 30.0

Step = Callable[[bool], Awaitable[None]]
"""`await step(again)`: does it; `again`: it may have been done before. Raises Away."""


class Away(Exception):
    """Nobody answers."""


@dataclass
class Load:
    """Works on the controller of a directory, over its own socket; devices enrol by TLS at `url`."""

    data_dir: Path
    url: str
    chance: random.Random
    networks: dict[str, str] = field(default_factory=dict)  # name by id, those that are there
    deleted: set[str] = field(default_factory=set)
    clients: dict[str, str] = field(default_factory=dict)  # address by id, members of BASE
    removed: set[str] = field(default_factory=set)
    roles: dict[str, str | None] = field(default_factory=dict)  # in BASE, by address
    keys: dict[str, str] = field(default_factory=dict)  # by id
    revoked: dict[str, str] = field(default_factory=dict)
    answers: int = 0
    wanted: int = 0  # answers, after which `enough` is called
    enough: Callable[[], None] = lambda: None
    _doubts: list[Step] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def prepare(self) -> None:
        wish = {"name": BASE, "subnet": "10.42.0.0/16", "max_clients": 10_000}
        async with self._http() as http:
            assert (await http.post("/networks", json=wish)).status_code == 201
            for n in range(3):
                self.roles[f"u{n}@example.org"] = None
                assert (await http.post("/users", json={"email": f"u{n}@example.org"})).status_code == 201

    async def run_until_killed(self, pid: int, answers: int, after: float) -> None:
        """`kill -9` comes so many seconds after so many answers."""
        self.wanted, self.enough = self.answers + answers, lambda: _kill_soon(pid, after)
        workers = (self._networks(), self._machines(), self._members(), self._keys(), self._networks())
        await asyncio.gather(*(self._work(steps) for steps in workers))

    async def settle(self) -> int:
        """What is in doubt, once more. Returns how many that were."""
        doubts, self._doubts = self._doubts, []
        for step in doubts:
            await step(True)
        return len(doubts)

    async def _work(self, steps: AsyncIterator[Step]) -> None:
        async for step in steps:
            try:
                await step(False)
                self.answers += 1
                if self.answers == self.wanted:
                    self.enough()
            except Away:
                self._doubts.append(step)
                return

    def _http(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.data_dir / "controller.sock"))
        return httpx.AsyncClient(transport=transport, base_url="http://local/api/v1", timeout=_PATIENCE)

    async def _ask(self, method: str, path: str, body: Any = None, once: str = "", *, good: set[int]) -> Any:
        headers = {"Idempotency-Key": once} if once else {}
        try:
            async with self._http() as http:
                answer = await http.request(method, path, json=body, headers=headers)
        except httpx.TransportError as e:
            raise Away from e
        assert answer.status_code in good, (method, path, body, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    # what is done

    async def _networks(self) -> AsyncIterator[Step]:
        for n in self._numbers:
            name = f"n{n}"

            async def create(_again: bool, name: str = name) -> None:
                wish = {"name": name, "subnet": "10.7.0.0/24"}
                made = await self._ask("POST", "/networks", wish, f"create {name}", good={201})
                self.networks[made["network_id"]] = name

            yield create
            if self.networks and self.chance.random() < 0.4:
                gone = self.chance.choice(list(self.networks))
                del self.networks[gone]

                async def delete(again: bool, ref: str = gone) -> None:
                    await self._ask("DELETE", f"/networks/{ref}", good={204, 404} if again else {204})
                    self.deleted.add(ref)

                yield delete

    async def _machines(self) -> AsyncIterator[Step]:
        for n in self._numbers:
            once, texts = f"invite {n}", list[str]()

            async def invite(_again: bool, once: str = once, texts: list[str] = texts) -> None:
                made = await self._ask("POST", f"/networks/{BASE}/invites", {"uses": 1}, once, good={201})
                texts.append(made["invite"])

            yield invite
            machine = (Signer.generate(), generate_private_key(), generate_sealing_keys()[0])

            async def join(_again: bool, texts: list[str] = texts, machine: Any = machine) -> None:
                device, wg, sealing = machine
                wish = {"device": device, "wg_private": wg, "sealing_private": sealing, "timeout": _PATIENCE}
                try:
                    found = await asyncio.to_thread(enroll, parse_invite(texts[0]), hostname="m", **wish)
                except ShadowMeshError as e:
                    if e.kind is Kind.UNREACHABLE:
                        raise Away from e
                    raise
                self.clients[found.answer.client_id] = str(found.answer.ip)

            yield join
            if self.clients and self.chance.random() < 0.3:
                gone = self.chance.choice(list(self.clients))
                del self.clients[gone]

                async def remove(again: bool, client: str = gone) -> None:
                    good = {204, 404} if again else {204}
                    await self._ask("DELETE", f"/networks/{BASE}/clients/{client}", good=good)
                    self.removed.add(client)

                yield remove

    async def _members(self) -> AsyncIterator[Step]:
        while True:
            email = self.chance.choice(list(self.roles))
            role = self.chance.choice(["member", "guest", None])

            async def put(again: bool, email: str = email, role: str | None = role) -> None:
                members = f"/networks/{BASE}/members"
                if role is None:
                    gone = again or self.roles[email] is None
                    await self._ask("DELETE", f"{members}/{email}", good={204, 404} if gone else {204})
                else:
                    await self._ask("PUT", members, {"email": email, "role": role}, good={200})
                self.roles[email] = role

            yield put

    async def _keys(self) -> AsyncIterator[Step]:
        for n in self._numbers:

            async def create(_again: bool, once: str = f"key {n}") -> None:
                made = await self._ask("POST", "/api-keys", {"name": once}, once, good={201})
                self.keys[made["id"]] = made["key"]

            yield create
            if len(self.keys) > 5 or (self.keys and self.chance.random() < 0.5):
                gone = self.chance.choice(list(self.keys))
                self.revoked[gone] = self.keys.pop(gone)

                async def revoke(again: bool, key: str = gone) -> None:
                    await self._ask("DELETE", f"/api-keys/{key}", good={204, 404} if again else {204})

                yield revoke

    # what has to be so

    async def check(self, tls: Any) -> None:
        """That what was answered is so, once nothing is in doubt."""
        assert not self._doubts
        verdict = await self._ask("GET", "/audit/verify", good={200})
        assert verdict["ok"], verdict
        listed = (await self._ask("GET", f"/networks/{BASE}/members", good={200}))["items"]
        held = {m["email"]: m["role"] for m in listed}
        assert {email: held.get(email) for email in self.roles} == self.roles
        async with httpx.AsyncClient(base_url=self.url, verify=tls, trust_env=False, timeout=_PATIENCE) as http:
            for text, good in (*((t, 200) for t in self.keys.values()), *((t, 401) for t in self.revoked.values())):
                answer = await http.get("/api/v1/whoami", headers={"Authorization": f"Bearer {text}"})
                assert answer.status_code == good
        self.revoked.clear()

    def check_rows(self, conn: Connection) -> None:
        """The same in the database, and that nothing there is half."""
        _check_networks(conn, self.networks, self.deleted)
        _check_clients(conn, self.clients, self.removed)
        _check_numbers(conn)
        if conn.dialect.name == "sqlite":
            assert conn.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert conn.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def _audited(conn: Connection, action: str) -> list[str]:
    """The ids that entries of this action are about."""
    t = schema.audit
    rows = conn.execute(sa.select(t.c.detail).where(t.c.action == action)).scalars()
    return sorted(str(_json(text)["id"]) for text in rows)


def _json(text: str) -> dict[str, Any]:
    return dict(json.loads(text))


def _check_networks(conn: Connection, there: dict[str, str], deleted: set[str]) -> None:
    n, e, i = schema.networks, schema.epochs, schema.invites
    rows = conn.execute(sa.select(n)).all()
    living = {row.ref: row.name for row in rows if row.deleted_at is None}
    assert {ref: name for ref, name in living.items() if name != BASE} == there
    assert {row.ref for row in rows if row.deleted_at is not None} == deleted
    assert len(set(living.values())) == len(living), "what was sent twice was made once"
    assert _audited(conn, "network.create") == sorted(row.ref for row in rows)
    assert _audited(conn, "network.delete") == sorted(deleted)
    assert set(conn.execute(sa.select(e.c.network_ref)).scalars()) == living.keys(), (
        "a network has a key, a dead one none"
    )
    standing = sa.select(i.c.network_ref).where(i.c.sealed_code.is_not(None))
    assert sorted(conn.execute(standing).scalars()) == sorted(living)


def _check_clients(conn: Connection, there: dict[str, str], removed: set[str]) -> None:
    c, a, i = schema.clients, schema.addresses, schema.invites
    rows = conn.execute(sa.select(c)).all()
    living = {row.id: row for row in rows if row.state == "approved"}
    assert {row.id: str(IPv4Address(row.ip)) for row in living.values()} == there
    assert {row.id for row in rows} - living.keys() == removed
    held = {row.client_id: row.ip for row in conn.execute(sa.select(a).where(a.c.client_id.is_not(None)))}
    assert held == {row.id: row.ip for row in living.values()}, "each address is a living client's"
    assert _audited(conn, "client.enrol") == sorted(row.id for row in rows)
    used = conn.execute(sa.select(i.c.id, i.c.uses - i.c.uses_left).where(i.c.sealed_code.is_(None))).all()
    by_invite = [row.invite_id for row in rows]
    assert {id_: by_invite.count(id_) for id_, _ in used} == dict(map(tuple, used)), "each use is a client"


def _check_numbers(conn: Connection) -> None:
    e = schema.events
    numbers = list(conn.execute(sa.select(e.c.seq).order_by(e.c.seq)).scalars())
    newest = sequences.newest(conn, sequences.EVENTS)
    assert numbers == list(range(newest - len(numbers) + 1, newest + 1)), "no event is missing or there twice"
    n, c = schema.networks, schema.clients
    ahead = sa.select(c.c.id).join(n, n.c.ref == c.c.network_ref).where(c.c.changed_serial > n.c.serial)
    assert conn.execute(ahead).all() == []


def _kill_soon(pid: int, after: float) -> None:
    def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    asyncio.get_running_loop().call_later(after, kill)
