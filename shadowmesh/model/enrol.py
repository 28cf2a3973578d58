"""How a client enrols: the shapes of `POST /api/v1/enroll/challenge` and `POST /api/v1/enroll`.

Structs, not pydantic models: the daemon sends and reads them and stays light. Asking again with the same keys and the
same invite gives the same answer and uses nothing up, so an answer lost on the wire loses nothing.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

from shadowmesh.model.codec import Struct
from shadowmesh.model.ids import ClientID, InviteID, NetworkRef
from shadowmesh.model.keys import DevicePublicKey, NetworkID, SealingPublicKey, SigningPublicKey, WireGuardPublicKey
from shadowmesh.model.link import Grant, MapUpdate


class ChallengeRequest(Struct, frozen=True, kw_only=True):
    """Naming an invite (`invite_id` and `secret`, or `code`) has the answer say where it leads. Nothing is used up."""

    invite_id: InviteID | None = None
    secret: str | None = None
    code: str | None = None


class EnrolChallenge(Struct, frozen=True, kw_only=True):
    """`nonce` is hex of 32 bytes and good for some minutes; `wall` is the controller's clock.

    Where the invite leads is told of one that exists, also if it can't be redeemed any more.
    """

    nonce: str
    wall: float
    identity: SigningPublicKey
    network_name: str | None = None
    network_id: NetworkID | None = None
    subnet: ipaddress.IPv4Network | None = None


class EnrolRequest(Struct, frozen=True, kw_only=True):
    """Either `invite_id` and `secret`, or the short `code`.

    `signature` (base64) is by the device key in the context REGISTRATION over
    `protocol.signing.registration_message(nonce, controller identity, …, invite=invite_id or code)`.
    `name` is what a person asked for and is refused if taken; `hostname` is a wish that gets a number if it is.
    """

    nonce: str
    device_key: DevicePublicKey
    wg_key: WireGuardPublicKey
    sealing_key: SealingPublicKey
    signature: str
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
