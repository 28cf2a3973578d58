"""The preshared key of a pair of peers, which makes a network's isolation cryptographic.

Who lacks the network key of an epoch can't complete a handshake in it.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shadowmesh.model.keys import NetworkID, Secret, WireGuardPublicKey

_LABEL: Final = b"shadowmesh psk 1"


def derive_psk(
    network_key: Secret, network_id: NetworkID, epoch: int, a: WireGuardPublicKey, b: WireGuardPublicKey
) -> Secret:
    """32 bytes, the same whichever of the two peers is named first.

    HKDF-SHA256 (RFC 5869) of the network key of `epoch`, empty salt, info = `shadowmesh psk 1` ‖ NetworkID ‖
    u32be(epoch) ‖ smaller ‖ larger public key.
    """
    info = b"".join((_LABEL, network_id, epoch.to_bytes(4, "big"), *sorted((a, b))))
    return Secret(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(network_key.reveal()))
