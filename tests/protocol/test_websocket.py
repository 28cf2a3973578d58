"""The head of a WebSocket frame, beside the one that `websockets` writes."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from shadowmesh.protocol.websocket import BINARY, MASKED, TEXT, frame_head


@pytest.mark.parametrize("size", [0, 1, 125, 126, 0xFFFF, 0x10000, 200_000])
def test_a_frame_begins_as_the_library_has_it(size: int) -> None:
    data = bytes(size)
    assert frame_head(TEXT, size) + data == Frame(Opcode.TEXT, data).serialize(mask=False)
    assert frame_head(BINARY, size) + data == Frame(Opcode.BINARY, data).serialize(mask=False)
    masked = Frame(Opcode.BINARY, data).serialize(mask=True)
    assert masked[: len(masked) - size - 4] == frame_head(BINARY, size, MASKED)
