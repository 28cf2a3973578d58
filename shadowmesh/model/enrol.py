"""How a client enrols: the shapes of `POST /api/v1/enroll/challenge` and `POST /api/v1/enroll`.

Structs, not pydantic models: the daemon sends and reads them and stays light. Asking again with the same keys and the
same invite gives the same answer and uses nothing up, so an answer lost on the wire loses nothing.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

from shadowmesh.model.clock import UnixTime
from shadowmesh.model.codec import Struct
from shadowmesh.model.devicelink import Grant, MapUpdate
from shadowmesh.model.ids import ClientID, InviteID, NetworkRef
from shadowmesh.model.keys import (
    DevicePublicKey,
    EphemeralPublicKey,
    NetworkID,
    SealingPublicKey,
    SigningPublicKey,
    WireGuardPublicKey,
)


class ChallengeRequest(Struct, frozen=True, kw_only=True):
    """An empty one asks for a nonce alone. To enrol it names the invite (`invite_id` and `secret`, or the short `code`)
    and the three public keys: the answer says where the invite leads and how to prove the keys. Nothing is used up.
    """

    invite_id: InviteID | None = None
    secret: str | None = None
    code: str | None = None
    device_key: DevicePublicKey | None = None
    wg_key: WireGuardPublicKey | None = None
    sealing_key: SealingPublicKey | None = None


class EnrolChallenge(Struct, frozen=True, kw_only=True):
    """`nonce` is hex of 32 bytes and good for some minutes; `wall` is the controller's clock.

    The rest is there if the request named an invite that can be redeemed, or that these keys have redeemed: where it
    leads, and what `protocol.possession.prove` takes (`sealed` is base64 of 1168 bytes).
    """

    nonce: str
    wall: UnixTime
    identity: SigningPublicKey
    ephemeral: EphemeralPublicKey | None = None
    sealed: str | None = None
    network_name: str | None = None
    network_id: NetworkID | None = None
    subnet: ipaddress.IPv4Network | None = None
    subnet6: ipaddress.IPv6Network | None = None


class EnrolRequest(Struct, frozen=True, kw_only=True):
    """Either `invite_id` and `secret`, or the short `code`.

    `signature` (base64) is by the device key in the context REGISTRATION over
    `protocol.signing.registration_message(nonce, controller identity, …, invite=invite_id or code)`; `proof` (base64)
    is what `protocol.possession.prove` makes of the challenge and the same message with the two other private keys.
    `name` is what a person asked for and is refused if taken; `hostname` is a wish that gets a number if it is.
    """

    nonce: str
    device_key: DevicePublicKey
    wg_key: WireGuardPublicKey
    sealing_key: SealingPublicKey
    signature: str
    proof: str
    invite_id: InviteID | None = None
    secret: str | None = None
    code: str | None = None
    name: str | None = None
    hostname: str = ""
    version: str = ""


class EnrolAnswer(Struct, frozen=True, kw_only=True):
    """The membership; approved members get map and grant with it, so that they work at once."""

    state: Literal["approved", "pending"]
    network: NetworkRef
    network_name: str
    network_id: NetworkID
    client_id: ClientID
    name: str
    ip: ipaddress.IPv4Address
    subnet: ipaddress.IPv4Network
    map: MapUpdate | None = None
    grant: Grant | None = None
