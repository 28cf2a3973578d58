"""`export wireguard`: a file that wg-quick(8) takes, or the reason why there can't be one."""

from __future__ import annotations

import base64
import configparser
import ipaddress
from dataclasses import replace

import msgspec
import pytest

from shadowmesh.daemon.wgexport import wireguard_config
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


def test_a_name_adds_no_setting() -> None:
    """Names are others' words: wg-quick runs what PostUp says, as root."""
    evil = replace_name("peer\nPostUp = touch /tmp/x\r\nPostDown = y")
    text = wireguard_config("office\n[Interface]\nPostUp = z", evil, EXPORT, listen_port=1)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "Post" in line]
    assert lines[0] == "[Interface]" and lines.count("[Interface]") == 1


def replace_name(name: str) -> Member:
    return msgspec.structs.replace(MEMBER, name=name)
