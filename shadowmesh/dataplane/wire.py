"""Commands and events as bytes, for the socketpair between daemon and pump.

A value is a msgpack array: its type's number, then its fields in order; addresses and networks as text. Descriptors travel
beside it by SCM_RIGHTS, so an `fd` field holds its place among them. What the child says is parsed as strictly as anything
from outside: the child is the one that reads hostile packets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec.structs import replace

from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError

COMMANDS: Final = tuple(get_args(m.Command))
EVENTS: Final = tuple(get_args(m.Event))
DESCRIPTORS: Final = (m.AddTun, m.AddSocket, m.AddStream)

MESSAGE_BYTES: Final = 60_000  # commands are gathered into messages of about this size
MESSAGE_DESCRIPTORS: Final = 100  # the kernel takes 253

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def _pack(value: object) -> object:
    if isinstance(value, SockAddr):
        return [value.host, value.port]
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return str(value)
    if isinstance(value, (m.Path, m.Session)):
        return [_pack(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, (IntEnum, IntFlag)):
        return int(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, tuple):
        return [_pack(v) for v in value]
    return value


def _unpack_path(value: Any) -> m.Path:
    via, remote, local, prefix = value
    return m.Path(
        m.Slot(_integer(via)),
        None if remote is None else SockAddr(str(remote[0]), _integer(remote[1])),
        None if local is None else ipaddress.ip_address(local),
        _octets(prefix),
    )


def _integer(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a number is expected, not {type(value).__name__}")
    return value


def _real(value: Any) -> float:
    if not isinstance(value, float):
        raise TypeError(f"a float is expected, not {type(value).__name__}")
    return value


def _octets(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes are expected, not {type(value).__name__}")
    return value


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_UNPACK_BY_NAME: Final[dict[str, Callable[[Any], Any]]] = {
    "local": lambda v: tuple(map(ipaddress.ip_network, v)),
    "allowed": lambda v: tuple(map(ipaddress.ip_network, v)),
    "path": _unpack_path,
    "primary": lambda v: None if v is None else _unpack_path(v),
    "also": lambda v: None if v is None else _unpack_path(v),
    "session": lambda v: m.Session(*v),
    "data": _octets,
}


def _unpackers(kind: type[msgspec.Struct]) -> tuple[Callable[[Any], Any], ...]:
    hints = get_type_hints(kind)
    found: list[Callable[[Any], Any]] = []
    for name in kind.__struct_fields__:
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, (IntEnum, IntFlag)):
            found.append(hint)
        elif name in _UNPACK_BY_NAME:
            found.append(_UNPACK_BY_NAME[name])
        else:
            plain = getattr(hint, "__supertype__", hint)
            found.append({int: _integer, float: _real}.get(plain, _plain))
    return tuple(found)


_NUMBERS: Final = {kind: number for number, kind in enumerate((*COMMANDS, *EVENTS))}
_KINDS: Final = tuple((kind, _unpackers(kind)) for kind in (*COMMANDS, *EVENTS))


def encode(value: m.Command | m.Event) -> bytes:
    """One command or event."""
    return _encoder.encode([_NUMBERS[type(value)], *(_pack(getattr(value, name)) for name in value.__struct_fields__)])


def decode(data: bytes | memoryview) -> Any:
    """The command or event. Raises MalformedError."""
    try:
        number, *values = _decoder.decode(data)
        kind, unpackers = _KINDS[number]
        return kind(*(unpack(value) for unpack, value in zip(unpackers, values, strict=True)))
    except (msgspec.DecodeError, ValueError, TypeError, IndexError, KeyError, RecursionError) as e:
        raise MalformedError(f"not a pump command or event: {e}") from e


def messages(commands: Sequence[m.Command]) -> list[tuple[bytes, list[int]]]:
    """Commands packed into messages, each with the descriptors that go along."""
    packed: list[tuple[bytes, list[int]]] = []
    body = bytearray()
    descriptors: list[int] = []
    for command in commands:
        if isinstance(command, DESCRIPTORS):
            descriptors.append(command.fd)
            command = replace(command, fd=len(descriptors) - 1)  # noqa: PLW2901
        item = encode(command)
        body += len(item).to_bytes(4, "big") + item
        if len(body) >= MESSAGE_BYTES or len(descriptors) >= MESSAGE_DESCRIPTORS:
            packed.append((bytes(body), descriptors))
            body, descriptors = bytearray(), []
    if body:
        packed.append((bytes(body), descriptors))
    return packed


def unpack_message(body: bytes, descriptors: Sequence[int]) -> list[m.Command]:
    """The commands of one message, with the receiver's own descriptors in place."""
    commands: list[m.Command] = []
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        command = decode(body[at + 4 : at + 4 + size])
        at += 4 + size
        if isinstance(command, DESCRIPTORS):
            command = replace(command, fd=descriptors[command.fd])
        commands.append(command)
    return commands
