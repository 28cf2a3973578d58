"""STUN binding: RFC 8489 (5389) requests and answers, NAT behaviour discovery of RFC 5780, and RFC 3489 requests answered.

Sans-I/O. `StunServer` decides on any number of sockets; `binding_request` and `parse_response` are the client's.
No authentication: who needs the answer trusted asks several servers.
"""

from __future__ import annotations

import ipaddress
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shadowmesh.model.addresses import IPAddress, SockAddr
from shadowmesh.model.errors import MalformedError

MAGIC_COOKIE: Final = b"\x21\x12\xa4\x42"
HEADER_SIZE: Final = 20

_REQUEST: Final = 0x0001
_SUCCESS: Final = 0x0101
_ERROR: Final = 0x0111

_MAPPED_ADDRESS: Final = 0x0001
_CHANGE_REQUEST: Final = 0x0003
_SOURCE_ADDRESS: Final = 0x0004  # RFC 3489
_CHANGED_ADDRESS: Final = 0x0005  # RFC 3489
_MESSAGE_INTEGRITY: Final = 0x0008
_ERROR_CODE: Final = 0x0009
_UNKNOWN_ATTRIBUTES: Final = 0x000A
_MESSAGE_INTEGRITY_SHA256: Final = 0x001C
_XOR_MAPPED_ADDRESS: Final = 0x0020
_FINGERPRINT: Final = 0x8028
_RESPONSE_ORIGIN: Final = 0x802B
_OTHER_ADDRESS: Final = 0x802C

_OPTIONAL: Final = 0x8000  # from here on an attribute may be ignored
_IN_REQUESTS: Final = frozenset(  # required ones that are understood; those for authentication, by not asking for it
    {_CHANGE_REQUEST, 0x0006, _MESSAGE_INTEGRITY, 0x0014, 0x0015, _MESSAGE_INTEGRITY_SHA256, 0x001D, 0x001E}
)
_IN_RESPONSES: Final = frozenset(
    {_MAPPED_ADDRESS, _SOURCE_ADDRESS, _CHANGED_ADDRESS, _MESSAGE_INTEGRITY, _ERROR_CODE, _UNKNOWN_ATTRIBUTES, 0x000B}
    | {_MESSAGE_INTEGRITY_SHA256, _XOR_MAPPED_ADDRESS}
)
_CHANGE_IP: Final = 4
_CHANGE_PORT: Final = 2
_UNKNOWN_ATTRIBUTE: Final = 420
_FINGERPRINT_XOR: Final = 0x5354554E
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # not to bind to: to recognise


@dataclass(frozen=True, slots=True)
class BindingResponse:
    """A server's answer. `mapped` is this side's address as the server sees it.

    `origin`: where the server says it answered from; `other`: its second address and port (RFC 5780), None without one.
    """

    tx_id: bytes
    mapped: SockAddr
    origin: SockAddr | None = None
    other: SockAddr | None = None


@dataclass(frozen=True, slots=True)
class BindingRefused:
    """An error response; 420 with 0x0003 in `unknown` means that the server can't do the change asked for."""

    tx_id: bytes
    code: int
    unknown: tuple[int, ...] = ()


def is_stun(data: bytes) -> bool:
    """Whether a datagram has the shape of a STUN message with magic cookie (RFC 8489, section 5)."""
    return data[4:8] == MAGIC_COOKIE and data[0] < 0x40 and _framed(data)


def _framed(data: bytes) -> bool:
    size = len(data) - HEADER_SIZE
    return size >= 0 and size % 4 == 0 and int.from_bytes(data[2:4], "big") == size


def binding_request(
    tx_id: bytes, *, change_ip: bool = False, change_port: bool = False, fingerprint: bool = False
) -> bytes:
    """A request with a 12-byte transaction id, unpredictable to others; the changes ask for an answer from elsewhere."""
    if len(tx_id) != 12:
        raise ValueError("a transaction id has 12 bytes")
    attributes = []
    if change_ip or change_port:
        flags = (_CHANGE_IP if change_ip else 0) | (_CHANGE_PORT if change_port else 0)
        attributes.append((_CHANGE_REQUEST, flags.to_bytes(4, "big")))
    return _message(_REQUEST, MAGIC_COOKIE + tx_id, attributes, fingerprint=fingerprint)


def parse_response(data: bytes) -> BindingResponse | BindingRefused:
    """An answer to a binding request, success or error. Raises MalformedError."""
    if not is_stun(data):
        raise MalformedError("not a STUN message")
    kind, tx = int.from_bytes(data[:2], "big"), data[4:20]
    found = _attributes(data)
    if kind == _ERROR:
        return _refused(tx, found)
    if kind != _SUCCESS:
        raise MalformedError(f"not a STUN binding response: type {kind:#06x}")
    if unknown := [a for a in found if a < _OPTIONAL and a not in _IN_RESPONSES]:
        raise MalformedError(f"a STUN response with an unknown required attribute {unknown[0]:#06x}")
    if _XOR_MAPPED_ADDRESS in found:
        mapped = _unpack_address(found[_XOR_MAPPED_ADDRESS], tx)
    elif _MAPPED_ADDRESS in found:
        mapped = _unpack_address(found[_MAPPED_ADDRESS])
    else:
        raise MalformedError("a STUN response without a mapped address")
    origin = found.get(_RESPONSE_ORIGIN)
    other = found.get(_OTHER_ADDRESS)
    return BindingResponse(
        tx[4:],
        mapped,
        None if origin is None else _unpack_address(origin),
        None if other is None else _unpack_address(other),
    )


def _refused(tx: bytes, found: dict[int, bytes]) -> BindingRefused:
    error = found.get(_ERROR_CODE, b"")
    if len(error) < 4:
        raise MalformedError("a STUN error without a code")
    listed = found.get(_UNKNOWN_ATTRIBUTES, b"")
    unknown = struct.unpack_from(f">{len(listed) // 2}H", listed)
    return BindingRefused(tx[4:], (error[2] & 7) * 100 + error[3], unknown)


class StunServer:
    """Answers binding requests that come to any of its sockets, by their public addresses in order.

    Where a host is the wildcard the address isn't known until a packet says which it came to (`received_on`);
    such sockets are taken to share one address, and differ by port only. With two addresses × two ports all of RFC 5780
    can be asked for; with one address the change of address can't, and is refused rather than answered wrongly.

    No answer is longer than 76 bytes over IPv4 and 124 over IPv6, and no refusal longer than its request and 12 bytes.
    """

    def __init__(self, sockets: Sequence[SockAddr]) -> None:
        self._sockets = tuple(sockets)

    def answer(
        self, data: bytes, source: SockAddr, socket_index: int, received_on: IPAddress | None = None
    ) -> tuple[bytes, int] | None:
        """The answer and the index of the socket to send it from; None for what gets none (it isn't a request).

        A request of RFC 3489 that asks for a change which can't be is met with silence: its clients take any other
        answer for the wrong one.
        """
        legacy = data[4:8] != MAGIC_COOKIE
        if data[:2] != b"\x00\x01" or not _framed(data):
            return None
        try:
            found = _attributes(data)
        except MalformedError:
            return None
        tx, fingerprint = data[4:20], _FINGERPRINT in found
        if unknown := [a for a in found if a < _OPTIONAL and a not in _IN_REQUESTS]:
            return _refusal(tx, unknown, fingerprint=fingerprint), socket_index
        change = found.get(_CHANGE_REQUEST, bytes(4))
        if len(change) != 4:
            return None
        change_ip, change_port = bool(change[3] & _CHANGE_IP), bool(change[3] & _CHANGE_PORT)
        sender = self._find(socket_index, change_ip, change_port)
        if sender is None:
            return None if legacy else (_refusal(tx, [_CHANGE_REQUEST], fingerprint=fingerprint), socket_index)
        describe = self._describe_legacy if legacy else self._describe
        attributes = describe(tx, source, socket_index, sender, received_on)
        return _message(_SUCCESS, tx, attributes, fingerprint=fingerprint), sender

    def _find(self, index: int, change_ip: bool, change_port: bool) -> int | None:
        """The socket of the same IP version whose address and port differ, or don't, as asked."""
        here = self._sockets[index]
        if not (change_ip or change_port):
            return index
        for i, there in enumerate(self._sockets):
            if (
                there.is_ipv6 == here.is_ipv6
                and (there.host != here.host) == change_ip
                and (there.port != here.port) == change_port
            ):
                return i
        return None

    def _public(self, index: int, received_on: IPAddress | None) -> SockAddr | None:
        addr = self._sockets[index]
        if addr.host not in _WILDCARDS:
            return addr
        return None if received_on is None else SockAddr(str(received_on), addr.port)

    def _describe(
        self, tx: bytes, source: SockAddr, index: int, sender: int, received_on: IPAddress | None
    ) -> list[tuple[int, bytes]]:
        attributes = [
            (_XOR_MAPPED_ADDRESS, _pack_address(source, tx)),
            (_MAPPED_ADDRESS, _pack_address(source)),
        ]
        if origin := self._public(sender, received_on):
            attributes.append((_RESPONSE_ORIGIN, _pack_address(origin)))
        other = self._find(index, change_ip=True, change_port=True)  # RFC 5780, 7.4: only with a second address
        if other is not None and (addr := self._public(other, received_on)):
            attributes.append((_OTHER_ADDRESS, _pack_address(addr)))
        return attributes

    def _describe_legacy(
        self, tx: bytes, source: SockAddr, index: int, sender: int, received_on: IPAddress | None
    ) -> list[tuple[int, bytes]]:
        """RFC 3489, 11.2: CHANGED-ADDRESS is expected always; with one address it differs by port alone."""
        attributes = [(_MAPPED_ADDRESS, _pack_address(source))]
        if origin := self._public(sender, received_on):
            attributes.append((_SOURCE_ADDRESS, _pack_address(origin)))
        changed = self._find(index, change_ip=True, change_port=True)
        if changed is None:
            changed = self._find(index, change_ip=False, change_port=True)
        if changed is not None and (addr := self._public(changed, received_on)):
            attributes.append((_CHANGED_ADDRESS, _pack_address(addr)))
        return attributes


def _refusal(tx: bytes, unknown: Sequence[int], *, fingerprint: bool) -> bytes:
    listed = struct.pack(f">{len(unknown)}H", *unknown)
    if tx[:4] != MAGIC_COOKIE and len(unknown) % 2:
        listed += listed[-2:]  # RFC 3489, 11.2.10: filled up by repeating one
    code = struct.pack(
        ">HBB", 0, _UNKNOWN_ATTRIBUTE // 100, _UNKNOWN_ATTRIBUTE % 100
    )  # no phrase: it would only amplify
    return _message(_ERROR, tx, [(_ERROR_CODE, code), (_UNKNOWN_ATTRIBUTES, listed)], fingerprint=fingerprint)


def _message(kind: int, tx: bytes, attributes: Sequence[tuple[int, bytes]], *, fingerprint: bool) -> bytes:
    """`tx` has the 16 bytes after the length: magic cookie and transaction id, or RFC 3489's longer id."""
    body = b"".join(struct.pack(">HH", a, len(v)) + v + bytes(-len(v) % 4) for a, v in attributes)
    if not fingerprint:
        return struct.pack(">HH", kind, len(body)) + tx + body
    head = struct.pack(">HH", kind, len(body) + 8) + tx + body
    return head + struct.pack(">HHI", _FINGERPRINT, 4, zlib.crc32(head) ^ _FINGERPRINT_XOR)


def _attributes(data: bytes) -> dict[int, bytes]:
    """Attributes in order; where one comes twice, the first counts; those after a message integrity don't (RFC 8489, 14.5).

    A fingerprint must be last and fit. Raises MalformedError.
    """
    found: dict[int, bytes] = {}
    at = HEADER_SIZE
    while at < len(data):
        kind, size = struct.unpack_from(
            ">HH", data, at
        )  # the whole and each step are multiples of 4: four bytes are there
        value = data[at + 4 : at + 4 + size]
        if len(value) != size:
            raise MalformedError("a STUN attribute cut short")
        if kind == _FINGERPRINT:
            expected = (zlib.crc32(data[:at]) ^ _FINGERPRINT_XOR).to_bytes(4, "big")
            if at + 8 != len(data) or value != expected:
                raise MalformedError("a STUN fingerprint that doesn't fit")
            found[kind] = value
        elif _MESSAGE_INTEGRITY not in found and _MESSAGE_INTEGRITY_SHA256 not in found:
            found.setdefault(kind, value)
        at += 4 + size + -size % 4
    return found


def _pack_address(addr: SockAddr, tx: bytes = b"") -> bytes:
    """An address attribute's value; with `tx` it is XORed (RFC 8489, 14.2)."""
    ip = addr.ip
    packed, port = ip.packed, addr.port.to_bytes(2, "big")
    if tx:
        packed, port = _xor(packed, tx), _xor(port, tx)
    return bytes((0, 1 if ip.version == 4 else 2)) + port + packed


def _unpack_address(value: bytes, tx: bytes = b"") -> SockAddr:
    port, packed = value[2:4], value[4:]
    if (value[1:2], len(packed)) not in ((b"\x01", 4), (b"\x02", 16)):
        raise MalformedError("not a STUN address")
    if tx:
        packed, port = _xor(packed, tx), _xor(port, tx)
    number = int.from_bytes(port, "big")
    if number == 0:
        raise MalformedError("a STUN address with port 0")
    if packed.startswith(_V4_MAPPED):
        packed = packed[12:]
    return SockAddr(str(ipaddress.ip_address(packed)), number)


def _xor(value: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(value, mask, strict=False))
