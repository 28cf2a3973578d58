"""When a link to the controller is tried again."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest

from shadowmesh.client_api.link import FIRST_RETRY, LAST_RETRY, ControllerLink, Disconnected
from shadowmesh.protocol.signing import IdentityDocument, Signer


async def nobody_listens(_host: str, _port: int, _timeout: float) -> socket.socket:
    raise ConnectionRefusedError


async def nobody_answers(_host: str, _port: int, _timeout: float) -> socket.socket:
    raise TimeoutError


@pytest.mark.parametrize(
    ("connect", "heard_before", "expected"),
    [
        (nobody_listens, 30.0, [FIRST_RETRY] * 5),  # it starts: who was refused twice comes no later than the others
        (nobody_listens, 61.0, [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY, LAST_RETRY, LAST_RETRY]),
        (nobody_answers, 30.0, [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY, LAST_RETRY, LAST_RETRY]),
    ],
)
async def test_the_time_to_the_next_try_grows_unless_the_controller_is_starting(
    connect: object, heard_before: float, expected: list[float]
) -> None:
    windows = list[float]()

    def at_once(most: float) -> float:
        windows.append(most)
        return 0.0

    key = Signer.generate()
    identity = IdentityDocument(identity=key.public, ca_pem="", signing_keys=(key.public,), urls=())
    link = ControllerLink(
        urls=("https://192.0.2.1",), fingerprint=None, identity=identity, device=key, boot_id="b", wall=lambda: 0.0,
        connect=connect, jitter=at_once,  # type: ignore[arg-type]
    )  # fmt: skip
    link._tls = ssl.create_default_context()
    link._heard_at = asyncio.get_running_loop().time() - heard_before
    async for event in link.run():
        assert isinstance(event, Disconnected)
        if len(windows) == len(expected):
            await link.close()
    assert windows == expected
