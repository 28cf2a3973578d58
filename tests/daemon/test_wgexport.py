"""`export wireguard`: a file that wg-quick(8) takes, or the reason why there can't be one."""

from __future__ import annotations

import base64
import configparser
import ipaddress
from dataclasses import replace

import msgspec
import pytest

from shadowmesh.daemon.wgexport import stated_endpoint, wireguard_config
from shadowmesh.engine import WireGuardExport
from shadowmesh.model.addresses import SockAddr
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.ids import ClientID
from shadowmesh.model.keys import DevicePublicKey, Secret
from shadowmesh.model.netmap import Member
from shadowmesh.protocol.noise import generate_private_key, public_key

KEY = generate_private_key()
PEER = public_key(generate_private_key())
MEMBER = Member(
    client_id=ClientID("cli_p"), name="peer", ip=ipaddress.IPv4Address("10.9.0.2"), wg_key=PEER,
    device_key=DevicePublicKey(bytes(32)),
)  # fmt: skip
EXPORT = WireGuardExport(
    private=KEY,
    addresses=(ipaddress.ip_address("10.9.0.1"), ipaddress.ip_address("fd00::1")),
    peer=PEER,
    psk=Secret(b"p" * 32),
    allowed=(ipaddress.ip_address("10.9.0.2"),),
    endpoint=SockAddr("2001:db8::7", 51820),
)


def test_the_file_says_what_wireguard_needs() -> None:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(wireguard_config("office", MEMBER, EXPORT, listen_port=40123, epoch=3))
    assert dict(parser["Interface"])["PrivateKey"] == base64.b64encode(KEY.reveal()).decode()
    assert (parser["Interface"]["Address"], parser["Interface"]["MTU"]) == ("10.9.0.1/32, fd00::1/128", "1376")
    assert parser["Interface"]["ListenPort"] == "40123"
    assert dict(parser["Peer"]) == {
        "PublicKey": str(PEER),
        "PresharedKey": base64.b64encode(b"p" * 32).decode(),
        "AllowedIPs": "10.9.0.2/32",
        "Endpoint": "[2001:db8::7]:51820",
        "PersistentKeepalive": "25",
    }


def test_it_says_that_the_preshared_key_ends() -> None:
    assert (
        "of epoch 3" in wireguard_config("office", MEMBER, EXPORT, listen_port=40123, epoch=3).split("[Interface]")[0]
    )


def test_what_cant_be_exported_says_why() -> None:
    with pytest.raises(ShadowMeshError) as caught:
        wireguard_config("office", MEMBER, replace(EXPORT, endpoint=None), listen_port=1)
    assert (caught.value.code, caught.value.kind) == ("no_endpoint", Kind.CONFLICT)
    with pytest.raises(ShadowMeshError) as caught:
        wireguard_config("office", MEMBER, None, listen_port=1)
    assert caught.value.code == "no_network_key"


@pytest.mark.parametrize(
    "endpoint",
    ["vpn.example.org:41641", "router:1", "203.0.113.4:65535", "[2001:db8::1]:51820", "xn--bcher-kva.example.:9"],
)
@pytest.mark.parametrize("known", [None, SockAddr("192.168.1.9", 4000)])
def test_the_operator_knows_of_a_forwarded_port(endpoint: str, known: SockAddr | None) -> None:
    export = replace(EXPORT, endpoint=known)
    text = wireguard_config("office", MEMBER, export, listen_port=1, endpoint=stated_endpoint(endpoint))
    assert [line for line in text.splitlines() if line.startswith("Endpoint")] == [f"Endpoint = {endpoint}"]


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "host", "host:", ":51820", "host:0", "host:65536", "host:１２", "host:+5", "host:1_0", "host:9" + "0" * 5000, "host:0" * 9 + "1",
        "2001:db8::1:51820", "[2001:db8::1]", "[2001:db8::1", "[203.0.113.4]:5", "[fe80::1%eth0]:5", "300.1.1.1:5", "1.2.3:5",
        "a..b:5", ".a:5", "-a:5", "a b:5", "bücher.example:5", "a" * 254 + ":5", "https://host:5", "user@host:5",
        "host:5\nPostUp = x", "host\nPostUp = x:5", "host:5\n", "[::1%\nPostUp = x]:5",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_wrong_use(text: str) -> None:
    with pytest.raises(ShadowMeshError) as caught:
        stated_endpoint(text)
    assert (caught.value.code, caught.value.kind) == ("bad_endpoint", Kind.USAGE)
    assert "HOST:PORT" in caught.value.what
    assert "\n" not in str(caught.value)


def test_a_name_adds_no_setting() -> None:
    """Names are others' words: wg-quick runs what PostUp says, as root."""
    evil = replace_name("peer\nPostUp = touch /tmp/x\r\nPostDown = y")
    text = wireguard_config("office\n[Interface]\nPostUp = z", evil, EXPORT, listen_port=1)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "Post" in line]
    assert lines[0] == "[Interface]" and lines.count("[Interface]") == 1


def replace_name(name: str) -> Member:
    return msgspec.structs.replace(MEMBER, name=name)
