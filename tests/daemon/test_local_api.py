"""The daemon's socket: who may ask what, and that no request can hurt it."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shadowmesh.client_api.local import SOCKET_NAME, AsyncDaemonClient, DaemonClient
from shadowmesh.client_api.unixsocket import short_path
from shadowmesh.daemon.local_api import MAX_OF_OTHERS, MAX_OF_OWNER, Access, Caller, LocalApi
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.status import PingTry


class Methods:
    """Stands in for the daemon's."""

    def __init__(self) -> None:
        self.streams_ended = asyncio.Event()
        self.slow_began, self.slow_ended = asyncio.Event(), asyncio.Event()
        self.begun = 0
        self.all = {
            "who": (Access.STATUS, self.who), "read": (Access.READ, self.who), "change": (Access.CHANGE, self.who),
            "count": (Access.STATUS, self.count), "forever": (Access.STATUS, self.forever),
            "breaks": (Access.STATUS, self.breaks), "refuses": (Access.STATUS, self.refuses), "echo": (Access.STATUS, self.echo),
            "slow": (Access.STATUS, self.slow),
        }  # fmt: skip

    async def who(self, caller: Caller, _params: dict[str, Any]) -> str:
        return caller.access.name

    async def echo(self, _caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return params

    async def slow(self, _caller: Caller, params: dict[str, Any]) -> str:
        self.begun += 1
        self.slow_began.set()
        try:
            await asyncio.sleep(params["seconds"])
        finally:
            self.slow_ended.set()
        return "done"

    async def count(self, _caller: Caller, params: dict[str, Any]) -> AsyncIterator[PingTry]:
        for seq in range(params["to"]):
            yield PingTry(seq=seq, ok=True)
        if params.get("then") == "refuse":
            raise ShadowMeshError("enough", "that is enough", "stop", kind=Kind.CONFLICT)

    async def forever(self, _caller: Caller, _params: dict[str, Any]) -> AsyncIterator[PingTry]:
        try:
            while True:
                yield PingTry(seq=0, ok=True)
                await asyncio.sleep(0.01)
        finally:
            self.streams_ended.set()

    async def breaks(self, _caller: Caller, _params: dict[str, Any]) -> None:
        raise ZeroDivisionError("inside")

    async def refuses(self, _caller: Caller, _params: dict[str, Any]) -> None:
        raise ShadowMeshError("full", "it is full", "empty it", kind=Kind.CONFLICT)


@asynccontextmanager
async def serving(directory: Path, operators: tuple[str, ...] = ()) -> AsyncIterator[Methods]:
    methods = Methods()
    api = LocalApi(directory, methods.all, operators)
    await api.start()
    try:
        yield methods
    finally:
        await api.stop()


async def raw(directory: Path, data: bytes, *, half_close: bool = True) -> bytes:
    """What comes back for these bytes."""
    with short_path(directory / SOCKET_NAME) as name:
        reader, writer = await asyncio.open_unix_connection(name)
    with suppress(OSError):
        writer.write(data)
        await writer.drain()
        if half_close:
            writer.write_eof()
    async with asyncio.timeout(10):
        answer = b""
        with suppress(OSError):
            answer = await reader.read()
    writer.close()
    return answer


async def test_calls_streams_and_errors(tmp_path: Path) -> None:
    async with serving(tmp_path):
        client = AsyncDaemonClient(tmp_path)
        assert await client.call("who") == "CHANGE"
        assert [item["seq"] async for item in client.stream("count", to=3)] == [0, 1, 2]
        with pytest.raises(ShadowMeshError) as caught:
            await client.call("refuses")
        error = caught.value
        assert (error.code, error.what, error.remedy, error.kind) == ("full", "it is full", "empty it", Kind.CONFLICT)
        with pytest.raises(ShadowMeshError, match="ZeroDivisionError"):
            await client.call("breaks")
        with pytest.raises(ShadowMeshError, match="knows no nonsense"):
            await client.call("nonsense")
        seen = []
        with pytest.raises(ShadowMeshError, match="that is enough"):
            async for item in client.stream("count", to=2, then="refuse"):
                seen.append(item)
        assert len(seen) == 2


async def test_the_blocking_client_says_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path):
        client = DaemonClient(tmp_path)
        assert await asyncio.to_thread(client.call, "who") == "CHANGE"
        assert len(await asyncio.to_thread(lambda: list(client.stream("count", to=4)))) == 4
        with pytest.raises(ShadowMeshError, match="it is full"):
            await asyncio.to_thread(client.call, "refuses")


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"nonsense\n", b"{}\n", b"[]\n", b'{"method": 1}\n', b'{"method": "who", "params": []}\n', b"\xff\xfe\n",
     b'{"method": null}\n', b"[" * 50_000 + b"\n", b'"who"\n', b'{"method": "who"', b"\0\n"],
)  # fmt: skip
async def test_what_is_no_request_gets_an_error(tmp_path: Path, request_: bytes) -> None:
    async with serving(tmp_path):
        answer = json.loads(await raw(tmp_path, request_))
        assert answer.get("error", {}).get("code") == "malformed"
        assert await AsyncDaemonClient(tmp_path).call("who") == "CHANGE"


async def test_too_long_a_request_and_silence_hurt_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert await raw(tmp_path, b"x" * 300_000) == b""
        assert await raw(tmp_path, b"") == b""
        with short_path(tmp_path / SOCKET_NAME) as name:
            _, idle = await asyncio.open_unix_connection(name)  # never says a word
        big = {"method": "echo", "params": {"text": "ü" * 10_000}}
        assert json.loads(await raw(tmp_path, json.dumps(big).encode() + b"\n"))["result"] == big["params"]
        idle.close()


async def test_a_caller_that_goes_away_ends_its_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as methods:
        with short_path(tmp_path / SOCKET_NAME) as name:
            reader, writer = await asyncio.open_unix_connection(name)
        writer.write(b'{"method": "forever"}\n')
        assert json.loads(await reader.readline())["item"]["ok"]
        writer.transport.abort()
        async with asyncio.timeout(5):
            await methods.streams_ended.wait()
        assert await AsyncDaemonClient(tmp_path).call("who") == "CHANGE"


async def test_a_directory_of_any_length(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-long-name-" * 10] * 3)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 300
    async with serving(deep):
        assert (deep / SOCKET_NAME).is_socket()
        assert await AsyncDaemonClient(deep).call("who") == "CHANGE"
        assert await asyncio.to_thread(DaemonClient(deep).call, "who") == "CHANGE"
    assert not (deep / SOCKET_NAME).exists()


async def test_the_socket_of_a_dead_daemon_is_replaced_and_of_a_living_one_not(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / SOCKET_NAME))
    dead.close()
    async with serving(tmp_path):
        with pytest.raises(ShadowMeshError) as caught:
            await LocalApi(tmp_path, {}).start()
        assert (caught.value.code, caught.value.kind) == ("daemon_running", Kind.CONFLICT)
        assert await AsyncDaemonClient(tmp_path).call("who") == "CHANGE"


async def test_no_daemon_is_unreachable(tmp_path: Path) -> None:
    for client in (AsyncDaemonClient(tmp_path), AsyncDaemonClient(tmp_path / "none")):
        with pytest.raises(ShadowMeshError) as caught:
            await client.call("who")
        assert (caught.value.code, caught.value.kind) == ("daemon_unreachable", Kind.UNREACHABLE)


AS_ANOTHER = """
import os, socket, sys
path, uid, gid, method = sys.argv[1:]
os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
sock = socket.socket(socket.AF_UNIX); sock.connect(path)
try: sock.sendall(b'{"method": "%s"}\\n' % method.encode())
except BrokenPipeError: pass
print(sock.makefile().readline())
"""


async def ask_as(uid: int, gid: int, directory: Path, method: str) -> dict[str, Any]:
    command = [sys.executable, "-c", AS_ANOTHER, str(directory / SOCKET_NAME), str(uid), str(gid), method]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=30)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


NOBODY, THEIR_GROUP = 65534, 4242


@pytest.mark.root
@pytest.mark.parametrize(
    ("uid", "gid", "operators", "access"),
    [(NOBODY, 65534, (), "STATUS"), (NOBODY, THEIR_GROUP, (), "READ"), (NOBODY, 65534, ("nobody",), "CHANGE"),
     (54321, 54321, ("nobody",), "STATUS"), (0, 0, (), "CHANGE")],
)  # fmt: skip
async def test_who_asks_decides_what_is_allowed(
    open_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, gid: int, operators: tuple[str, ...], access: str
) -> None:
    group = grp.struct_group(("shadowmesh", "x", THEIR_GROUP, []))
    monkeypatch.setattr(grp, "getgrnam", lambda _name: group)
    async with serving(open_path, operators):
        assert (await ask_as(uid, gid, open_path, "who"))["result"] == access
        for method, needed in (("read", Access.READ), ("change", Access.CHANGE)):
            answer = await ask_as(uid, gid, open_path, method)
            if Access[access] >= needed:
                assert answer["result"] == access
            else:
                assert (answer["error"]["code"], answer["error"]["kind"]) == ("not_allowed", Kind.NOT_ALLOWED.value)
    assert os.geteuid() == 0


# a daemon that says nothing, and callers that don't listen


async def test_a_daemon_that_works_long_is_not_a_stuck_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmesh.daemon.local_api.WORKING", 0.05)
    monkeypatch.setattr("shadowmesh.client_api.local.SILENCE", 0.5)
    async with serving(tmp_path) as methods:
        client = AsyncDaemonClient(tmp_path)
        for answer in (
            client.call("slow", seconds=1.0),
            asyncio.to_thread(DaemonClient(tmp_path).call, "slow", seconds=1.0),
        ):
            assert await answer == "done"
        assert methods.begun == 2


STOPPED = """
import asyncio, os, pathlib, signal, sys
from shadowmesh.daemon.local_api import Access, LocalApi
directory = pathlib.Path(sys.argv[1])
async def change(caller, params): (directory / "changed").touch()
async def main():
    api = LocalApi(directory, {"change": (Access.CHANGE, change)})
    await api.start()
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await api.stop()
asyncio.run(main())
"""


def test_a_stopped_daemon_hangs_nobody_and_carries_nothing_out_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shadowmesh.client_api.local.SILENCE", 0.3)
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None and daemon.stdout.readline() == "ready\n"
            os.waitid(os.P_PID, daemon.pid, os.WSTOPPED)
            client = DaemonClient(tmp_path)
            for ask in (
                lambda: client.call("change"),
                lambda: list(client.stream("change")),
                lambda: asyncio.run(AsyncDaemonClient(tmp_path).call("change")),
            ):
                with pytest.raises(ShadowMeshError) as caught:
                    ask()
                assert (caught.value.code, caught.value.kind) == ("daemon_stuck", Kind.UNREACHABLE)
                assert f"the daemon (pid {daemon.pid}) doesn't answer" in caught.value.what
            daemon.send_signal(signal.SIGCONT)
            daemon.communicate("end\n", timeout=30)
            assert daemon.returncode == 0 and not (tmp_path / "changed").exists()
        finally:
            daemon.kill()


async def test_a_caller_that_didnt_run_for_a_while_takes_nobody_for_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemon and caller stop together, as with a machine that is paused; what the daemon says next comes in late."""
    monkeypatch.setattr("shadowmesh.client_api.local.SILENCE", 0.35)
    monkeypatch.setattr("shadowmesh.daemon.local_api.WORKING", 0.05)
    async with serving(tmp_path) as methods:
        asking = asyncio.create_task(AsyncDaemonClient(tmp_path).call("slow", seconds=1.0))
        await methods.slow_began.wait()
        time.sleep(0.5)  # noqa: ASYNC251 - nothing runs meanwhile
        assert await asking == "done"


async def test_what_a_caller_asked_who_has_gone_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmesh.daemon.local_api.WORKING", 0.05)
    async with serving(tmp_path) as methods:
        with short_path(tmp_path / SOCKET_NAME) as name:
            _, writer = await asyncio.open_unix_connection(name)
        writer.write(b'{"method": "slow", "params": {"seconds": 60}}\n')
        async with asyncio.timeout(5):
            await methods.slow_began.wait()
            writer.close()
            await methods.slow_ended.wait()


async def test_a_request_has_to_come_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmesh.daemon.local_api._REQUEST_TIME", 0.1)
    async with serving(tmp_path):
        assert await raw(tmp_path, b'{"method"', half_close=False) == b""
        assert await raw(tmp_path, b"", half_close=False) == b""


FLOOD = """
import os, socket, sys
path, uid = sys.argv[1:]
os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
held = []
while len(held) < 200:
    sock = socket.socket(socket.AF_UNIX)
    try: sock.connect(path)
    except OSError: break
    held.append(sock)
print(len(held), flush=True)
sys.stdin.readline()
"""


@pytest.mark.root
async def test_a_user_without_rights_cant_use_up_the_daemons_descriptors(open_path: Path) -> None:
    async with serving(open_path):
        before = descriptors()
        users = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", FLOOD, str(open_path / SOCKET_NAME), str(uid),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for uid in range(54321, 54327)
        ]  # fmt: skip
        for user in users:
            assert user.stdout is not None
            await user.stdout.readline()
        assert await AsyncDaemonClient(open_path).call("who") == "CHANGE", "who may change things gets in"
        assert descriptors() - before <= MAX_OF_OTHERS + 20
        answer = await ask_as(54321, 54321, open_path, "who")
        assert answer["error"]["code"] == "busy"
        for user in users:
            user.kill()
            await user.wait()
        async with asyncio.timeout(5):
            while "error" in await ask_as(54321, 54321, open_path, "who"):
                pass


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_who_may_change_things_cant_use_up_the_daemons_descriptors_either(tmp_path: Path) -> None:
    async with serving(tmp_path):
        held = []
        for _ in range(MAX_OF_OWNER + 20):
            with short_path(tmp_path / SOCKET_NAME) as name:
                held.append(await asyncio.open_unix_connection(name))
        with pytest.raises(ShadowMeshError) as caught:
            await AsyncDaemonClient(tmp_path).call("who")
        assert caught.value.code == "busy"
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await AsyncDaemonClient(tmp_path).call("who") == "CHANGE"
                    return
                except ShadowMeshError as e:
                    assert e.code == "busy"
