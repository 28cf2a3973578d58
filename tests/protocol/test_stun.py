"""STUN: what a client asks, our servers answer, by RFC 8489, 5780 and 3489; checked with RFC 5769's vectors."""

from __future__ import annotations

import selectors
import socket
import threading
import zlib
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
import stun
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import MalformedError
from shadowmesh.protocol.stun import (
    BindingRefused,
    BindingResponse,
    StunServer,
    binding_request,
    is_stun,
    parse_response,
)

TX = bytes(range(12))
CLIENT = SockAddr("203.0.113.9", 40000)
CLIENT6 = SockAddr("2001:db8::9", 40000)
A1, A2, B1, B2 = (SockAddr(h, p) for h in ("192.0.2.1", "192.0.2.2") for p in (3478, 3479))

RFC5769_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff"
    "80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249"
    "c1b571a280280004e57a3bcf"
)
RFC5769_RESPONSE_V4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RFC5769_RESPONSE_V6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a147"
    "0113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
RFC5769_TX = bytes.fromhex("b7e7a701bc34d686fa87dfae")


def test_the_responses_of_rfc_5769_are_read() -> None:
    assert parse_response(RFC5769_RESPONSE_V4) == BindingResponse(RFC5769_TX, SockAddr("192.0.2.1", 32853))
    expected = SockAddr("2001:db8:1234:5678:11:2233:4455:6677", 32853)
    assert parse_response(RFC5769_RESPONSE_V6) == BindingResponse(RFC5769_TX, expected)


def test_the_request_of_rfc_5769_is_refused_for_its_ice_priority() -> None:
    answer = StunServer([A1]).answer(RFC5769_REQUEST, CLIENT, 0)
    assert answer is not None
    assert parse_response(answer[0]) == BindingRefused(RFC5769_TX, 420, (0x0024,))


def test_a_plain_request_is_answered_from_where_it_came_to() -> None:
    answer = StunServer([A1, A2]).answer(binding_request(TX), CLIENT, 1)
    assert answer is not None
    data, index = answer
    assert is_stun(data)
    assert index == 1
    assert parse_response(data) == BindingResponse(TX, CLIENT, origin=A2)


def test_both_forms_of_the_mapped_address_are_there() -> None:
    answer = StunServer([A1]).answer(binding_request(TX), CLIENT, 0)
    assert answer is not None
    assert b"\x00\x01\x00\x08\x00\x01" + (40000).to_bytes(2, "big") + ip_address(CLIENT.host).packed in answer[0]
    assert b"\x00\x20\x00\x08\x00\x01" in answer[0]


def test_two_addresses_and_two_ports_answer_every_change() -> None:
    server = StunServer([A1, A2, B1, B2])
    for change_ip, change_port, origin in [(False, True, A2), (True, False, B1), (True, True, B2)]:
        request = binding_request(TX, change_ip=change_ip, change_port=change_port)
        answer = server.answer(request, CLIENT, 0)
        assert answer is not None
        assert [A1, A2, B1, B2][answer[1]] == origin
        assert parse_response(answer[0]) == BindingResponse(TX, CLIENT, origin=origin, other=B2)


def test_one_address_changes_its_port_and_refuses_to_pretend_another_address() -> None:
    server = StunServer([A1, A2])
    answer = server.answer(binding_request(TX, change_port=True), CLIENT, 0)
    assert answer is not None
    assert answer[1] == 1
    assert parse_response(answer[0]) == BindingResponse(TX, CLIENT, origin=A2)
    for change_port in (False, True):
        refusal = server.answer(binding_request(TX, change_ip=True, change_port=change_port), CLIENT, 0)
        assert refusal is not None
        assert refusal[1] == 0
        assert parse_response(refusal[0]) == BindingRefused(TX, 420, (0x0003,))


def test_a_change_stays_in_its_ip_version() -> None:
    server = StunServer([A1, SockAddr("2001:db8::1", 3479), SockAddr("2001:db8::1", 3478)])
    answer = server.answer(binding_request(TX, change_ip=True, change_port=True), CLIENT, 0)
    assert answer is not None
    assert isinstance(parse_response(answer[0]), BindingRefused)
    answer = server.answer(binding_request(TX, change_port=True), CLIENT6, 2)
    assert answer is not None
    assert answer[1] == 1
    assert parse_response(answer[0]) == BindingResponse(TX, CLIENT6, origin=SockAddr("2001:db8::1", 3479))


def test_a_wildcard_socket_names_the_address_that_the_packet_came_to_or_none() -> None:
    server = StunServer([SockAddr("0.0.0.0", 3478), SockAddr("0.0.0.0", 3479)])
    unknown = server.answer(binding_request(TX), CLIENT, 0)
    known = server.answer(binding_request(TX, change_port=True), CLIENT, 0, ip_address("192.0.2.1"))
    assert unknown is not None
    assert known is not None
    assert parse_response(unknown[0]) == BindingResponse(TX, CLIENT)
    assert parse_response(known[0]) == BindingResponse(TX, CLIENT, origin=A2)


def test_a_fingerprint_is_answered_with_one_and_a_wrong_one_not_at_all() -> None:
    request = binding_request(TX, fingerprint=True)
    answer = StunServer([A1]).answer(request, CLIENT, 0)
    assert answer is not None
    assert answer[0][-8:-4] == b"\x80\x28\x00\x04"
    assert parse_response(answer[0]) == BindingResponse(TX, CLIENT, origin=A1)
    assert StunServer([A1]).answer(request[:-1] + bytes([request[-1] ^ 1]), CLIENT, 0) is None


def test_a_fingerprint_that_is_not_last_is_not_answered() -> None:
    request = binding_request(TX)
    head = request[:2] + b"\x00\x10" + request[4:]
    crc = (zlib.crc32(head) ^ 0x5354554E).to_bytes(4, "big")
    last = b"\x80\x22\x00\x04test"
    assert StunServer([A1]).answer(head + b"\x80\x28\x00\x04" + crc + last, CLIENT, 0) is None


def test_responses_and_indications_are_not_answered() -> None:
    server = StunServer([A1])
    assert server.answer(RFC5769_RESPONSE_V4, CLIENT, 0) is None
    assert server.answer(b"\x00\x11" + binding_request(TX)[2:], CLIENT, 0) is None


def legacy_request(change: int | None = None) -> bytes:
    attribute = b"" if change is None else b"\x00\x03\x00\x04" + change.to_bytes(4, "big")
    return b"\x00\x01" + len(attribute).to_bytes(2, "big") + b"0123456789abcdef" + attribute


def legacy_address(kind: int, addr: SockAddr) -> bytes:
    return kind.to_bytes(2, "big") + b"\x00\x08\x00\x01" + addr.port.to_bytes(2, "big") + ip_address(addr.host).packed


def test_rfc_3489_clients_get_their_attributes() -> None:
    answer = StunServer([A1, A2, B1, B2]).answer(legacy_request(), CLIENT, 0)
    assert answer is not None
    attributes = legacy_address(1, CLIENT) + legacy_address(4, A1) + legacy_address(5, B2)
    assert answer == (b"\x01\x01\x00\x24" + b"0123456789abcdef" + attributes, 0)


def test_rfc_3489_clients_of_one_address_are_shown_its_other_port() -> None:
    server = StunServer([A1, A2])
    answer = server.answer(legacy_request(), CLIENT, 0)
    assert answer is not None
    assert answer[0].endswith(legacy_address(5, A2))
    changed = server.answer(legacy_request(change=2), CLIENT, 0)
    assert changed is not None
    assert changed[1] == 1
    assert server.answer(legacy_request(change=6), CLIENT, 0) is None


def test_a_reflection_to_a_third_address_is_refused() -> None:
    request = b"\x00\x01\x00\x0c" + b"0123456789abcdef" + legacy_address(2, SockAddr("198.51.100.1", 53))
    answer = StunServer([A1]).answer(request, CLIENT, 0)
    assert answer is not None
    assert answer[0] == (
        b"\x01\x11\x00\x10"
        + b"0123456789abcdef"
        + b"\x00\x09\x00\x04\x00\x00\x04\x14"
        + b"\x00\x0a\x00\x04\x00\x02\x00\x02"
    )


@pytest.mark.parametrize(("client", "limit"), [(CLIENT, 68), (CLIENT6, 116)])
def test_an_answer_stays_small(client: SockAddr, limit: int) -> None:
    host = "2001:db8::{}" if client.is_ipv6 else "192.0.2.{}"
    server = StunServer([SockAddr(host.format(h), p) for h in (1, 2) for p in (1, 2)])
    answer = server.answer(binding_request(TX), client, 0)
    assert answer is not None
    assert len(answer[0]) == limit


def response(*attributes: tuple[int, bytes], kind: bytes = b"\x01\x01") -> bytes:
    body = b"".join(a.to_bytes(2, "big") + len(v).to_bytes(2, "big") + v for a, v in attributes)
    return kind + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + TX + body


V4_VALUE = b"\x00\x01\x9c\x40\xcb\x00\x71\x09"  # 203.0.113.9:40000


def test_a_server_that_knows_only_the_old_attribute_is_understood() -> None:
    assert parse_response(response((1, V4_VALUE))) == BindingResponse(TX, CLIENT)


def test_the_first_of_two_equal_attributes_counts_and_none_after_the_integrity() -> None:
    elsewhere = b"\x00\x01\x00\x01" + V4_VALUE[4:]
    assert parse_response(response((1, V4_VALUE), (1, elsewhere))) == BindingResponse(TX, CLIENT)
    sealed = response((1, V4_VALUE), (8, bytes(20)), (0x802C, elsewhere))
    assert parse_response(sealed) == BindingResponse(TX, CLIENT)


def test_an_ipv4_address_in_ipv6_clothes_is_an_ipv4_address() -> None:
    value = b"\x00\x02\x9c\x40" + bytes(10) + b"\xff\xff" + V4_VALUE[4:]
    assert parse_response(response((1, value))) == BindingResponse(TX, CLIENT)


@pytest.mark.parametrize(
    "data",
    [
        response(),
        response((1, V4_VALUE[:-4])),
        response((1, b"\x00\x03" + V4_VALUE[2:])),
        response((1, b"\x00\x01\x00\x00" + V4_VALUE[4:])),
        response((1, V4_VALUE), (0x0024, bytes(4))),
        response((1, V4_VALUE), (0x802C, bytes(4))),
        response((1, V4_VALUE), kind=b"\x00\x01"),
        response(kind=b"\x01\x11"),
        response((9, b""), kind=b"\x01\x11"),
    ],
    ids=["empty", "short", "family", "port 0", "unknown", "other", "request", "no error", "empty error"],
)
def test_a_response_that_says_nothing_usable_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_response(data)


def test_a_change_request_of_a_wrong_size_is_not_answered() -> None:
    assert StunServer([A1]).answer(response((3, bytes(8)), kind=b"\x00\x01"), CLIENT, 0) is None


def test_a_transaction_id_has_twelve_bytes() -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        binding_request(b"short")


addresses = st.builds(
    lambda ip, port: SockAddr(str(ip), port),
    st.one_of(
        st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None and ip.scope_id is None)
    ),
    st.integers(1, 65535),
)


@given(addresses, st.binary(min_size=12, max_size=12), st.booleans())
def test_the_client_reads_what_the_server_saw(source: SockAddr, tx_id: bytes, fingerprint: bool) -> None:
    answer = StunServer([A1]).answer(binding_request(tx_id, fingerprint=fingerprint), source, 0)
    assert answer is not None
    assert parse_response(answer[0]) == BindingResponse(tx_id, source, origin=A1)


def framed(kind: bytes, tx: bytes, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return kind + len(body).to_bytes(2, "big") + tx + body


attribute = st.builds(
    lambda kind, value: kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4),
    st.one_of(st.sampled_from([1, 3, 4, 5, 8, 9, 10, 0x20, 0x8028, 0x802B, 0x802C]), st.integers(0, 65535)),
    st.binary(max_size=24),
)
stun_like = st.one_of(
    st.binary(max_size=100),
    st.builds(
        framed,
        st.sampled_from([b"\x00\x01", b"\x01\x01", b"\x01\x11"]),
        st.sampled_from([b"\x21\x12\xa4\x42" + TX, b"0123456789abcdef"]),
        st.one_of(st.binary(max_size=80), st.lists(attribute, max_size=5).map(b"".join)),
    ),
)


@given(stun_like)
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    try:
        response = parse_response(data)
    except MalformedError:
        return
    assert len(response.tx_id) == 12


@given(stun_like, st.integers(0, 3))
def test_any_bytes_are_answered_briefly_or_not_at_all(data: bytes, index: int) -> None:
    answer = StunServer([A1, A2, B1, B2]).answer(data, CLIENT, index)
    if answer is not None:
        assert len(answer[0]) <= max(76, len(data) + 12)
        assert answer[0][4:20] == data[4:20]


class Desk:
    """A STUN server on real loopback sockets, for clients that bring their own."""

    def __init__(self, hosts: list[str], *, ports: int = 2) -> None:
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(len(hosts) * ports)]
        for i, sock in enumerate(self.sockets):
            same_port = self.sockets[i % ports].getsockname()[1] if i >= ports else 0
            sock.bind((hosts[i // ports], same_port))
        self.addresses = [SockAddr(*s.getsockname()) for s in self.sockets]
        self._server = StunServer(self.addresses)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for i, sock in enumerate(self.sockets):
                selector.register(sock, selectors.EVENT_READ, i)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    data, source = self.sockets[key.data].recvfrom(2048)
                    if answer := self._server.answer(data, SockAddr(*source), key.data):
                        self.sockets[answer[1]].sendto(answer[0], source)

    def __enter__(self) -> Desk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for sock in (*self.sockets, self._wake, self._woken):
            sock.close()


@pytest.fixture
def pystun_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.2)
        yield sock


def test_pystun3_finds_an_open_internet_through_two_addresses(pystun_socket: socket.socket) -> None:
    with Desk(["127.0.0.1", "127.0.0.2"]) as desk:
        server = desk.addresses[0]
        kind, seen = stun.get_nat_type(pystun_socket, "127.0.0.1", 0, stun_host=server.host, stun_port=server.port)
        assert kind == stun.OpenInternet
        assert (seen["ExternalIP"], seen["ExternalPort"]) == pystun_socket.getsockname()
        assert SockAddr(seen["SourceIP"], seen["SourcePort"]) == desk.addresses[3]
        assert SockAddr(seen["ChangedIP"], seen["ChangedPort"]) == desk.addresses[3]


def test_pystun3_is_not_told_of_a_full_cone_by_a_server_of_one_address(pystun_socket: socket.socket) -> None:
    with Desk(["127.0.0.1"]) as desk:
        server = desk.addresses[0]
        # a source address that isn't the observed one makes pystun3 take itself to be behind a NAT
        kind, _ = stun.get_nat_type(pystun_socket, "10.0.0.1", 0, stun_host=server.host, stun_port=server.port)
        assert kind == stun.RestricNAT
