"""How a WebSocket's frame begins (RFC 6455, section 5.2), for those who write whole frames themselves."""

from __future__ import annotations

TEXT, BINARY = 0x81, 0x82  # a whole message: FIN and the opcode
MASKED = 0x80


def frame_head(message: int, size: int, mark: int = 0) -> bytes:
    """What precedes the mask, or the payload of `size` bytes. `message`: TEXT or BINARY; `mark`: MASKED if a mask follows."""
    if size < 126:
        return bytes((message, mark | size))
    if size < 0x10000:
        return bytes((message, mark | 126)) + size.to_bytes(2, "big")
    return bytes((message, mark | 127)) + size.to_bytes(8, "big")
