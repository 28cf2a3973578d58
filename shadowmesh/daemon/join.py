"""Joining a network: the enrolment, and its record on disk. Blocking: the daemon calls it from a worker thread."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

from shadowmesh.client_api.enroll import enroll, parse_invite
from shadowmesh.daemon.network import Network
from shadowmesh.daemon.state import ControllerRecord, NetworkRecord, NetworkSecrets, State
from shadowmesh.model.pump import NetIndex
from shadowmesh.model.status import JoinResult
from shadowmesh.protocol.noise import generate_private_key, public_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import Signer

Refuse = Callable[[str, ipaddress.IPv4Network], None]


def _new_keys() -> NetworkSecrets:
    return NetworkSecrets(generate_private_key(), *generate_sealing_keys())


def enrol(
    state: State,
    text: str,
    *,
    name: str | None,
    controller: str | None,
    fingerprint: str | None,
    refuse: Refuse,
) -> NetworkRecord:
    """Enrols this device with fresh keys and keeps the membership. Raises ShadowMeshError.

    Keys are kept before the first request: a join that was cut off and is tried again is the same join. `refuse`
    raises if this host can't carry the network.
    """
    invite = parse_invite(text, controller=controller, fingerprint=fingerprint)
    mark = hashlib.sha256(text.strip().encode()).digest()
    keys = state.enrolment_keys(mark, _new_keys)
    device, _ = state.device()
    result = enroll(
        invite,
        device=Signer.from_secret(device),
        wg_key=public_key(keys.wg_private),
        sealing_key=keys.sealing_public,
        name=name,
        hostname=socket.gethostname(),
    )
    answer, contact = result.answer, result.contact
    refuse(answer.network_name, answer.subnet)
    record = NetworkRecord(
        network_id=answer.network_id,
        ref=answer.network,
        name=answer.network_name,
        client_id=answer.client_id,
        ip=str(answer.ip),
        approved=answer.state == "approved",
        controller=ControllerRecord(
            fingerprint=contact.identity.identity.fingerprint, identity=contact.identity, clock_offset=contact.offset
        ),
    )
    state.put_network(record, keys)
    network = Network(state, record, NetIndex(0))
    if answer.map is not None and answer.map.snapshot is not None:
        network.accept_map(answer.map.snapshot, answer.map.signature)
    if answer.grant is not None:
        network.accept_grant(answer.grant)
    state.end_enrolment(mark)
    return network.record


def join_offline(
    state_dir: Path, text: str, *, name: str | None, controller: str | None, fingerprint: str | None
) -> JoinResult:
    """`join` without a daemon: it takes the network up when it starts."""
    state = State(state_dir)
    try:

        def refuse(wanted: str, subnet: ipaddress.IPv4Network) -> None:
            for other in state.networks():
                kept = state.load_map(other.network_id)
                if kept is not None and kept.snapshot is not None and kept.snapshot.head.subnet.overlaps(subnet):
                    from shadowmesh.daemon.daemon import overlap_error

                    raise overlap_error(wanted, subnet, f"network {other.name}", kept.snapshot.head.subnet)

        record = enrol(state, text, name=name, controller=controller, fingerprint=fingerprint, refuse=refuse)
    finally:
        state.close()
    return JoinResult(
        network=record.name,
        network_id=str(record.network_id),
        client_id=record.client_id,
        ip=record.ip,
        interface="",
        state="handed-over" if record.approved else "pending-approval",
    )
