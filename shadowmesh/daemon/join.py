"""Joining a network: the enrolment, and its record on disk. Blocking: the daemon calls it from a worker thread."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from shadowmesh.client_api.dialing import Connect
from shadowmesh.client_api.enroll import Check, enroll, parse_invite
from shadowmesh.daemon.naming import waiting
from shadowmesh.daemon.network import opened_keys
from shadowmesh.daemon.state import ControllerRecord, NetworkRecord, NetworkSecrets, State
from shadowmesh.host.hostnetwork import HostNetwork
from shadowmesh.model.addresses import IPAddress, IPNetwork
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import NetworkID
from shadowmesh.model.netmap import MapHead
from shadowmesh.model.status import JoinResult
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import Signer

_NO_USE = {"invite_invalid", "invite_expired", "invite_revoked", "invite_used_up"}  # no later try can succeed


def _new_keys() -> NetworkSecrets:
    return NetworkSecrets(generate_private_key(), *generate_sealing_keys())


def outer_addresses(head: MapHead, urls: Iterable[str]) -> set[IPAddress]:
    """Where a network's controller, at these URLs, and its relays are, as far as that is said by address and not by name."""
    found = {a.ip for a in head.stun} | {r.udp.ip for r in head.relays if r.udp is not None}
    for url in (*urls, *head.controller_urls, *(r.url for r in head.relays)):
        with suppress(ValueError):
            found.add(ipaddress.ip_address(urlsplit(url or "").hostname or ""))
    return found


def outer_error(name: str, subnet: IPNetwork, address: IPAddress) -> ShadowMeshError:
    return ShadowMeshError(
        "overlap",
        f"the subnet {subnet} of {name} covers {address}, which this host needs outside its networks "
        "(a controller, relay, peer or name server)",
        "ask for another subnet, or put it into a network namespace with --netns NAME",
        kind=Kind.CONFLICT,
    )


def overlap_error(name: str, subnet: IPNetwork, what: str, other: IPNetwork) -> ShadowMeshError:
    return ShadowMeshError(
        "overlap",
        f"the subnet {subnet} of {name} overlaps {other} of {what}",
        f"{'' if what.startswith('interface ') else 'take that one down first, '}ask for another subnet, or put it into a "
        f"network namespace with --netns NAME",
        kind=Kind.CONFLICT,
    )


def refuse_overlap(name: str, subnet: IPNetwork, other: str, others: Iterable[IPNetwork]) -> None:
    """Raises ShadowMeshError if a subnet of network `name` overlaps one of network `other`."""
    for theirs in others:
        if theirs.version == subnet.version and theirs.overlaps(subnet):
            raise overlap_error(name, subnet, f"network {other}", theirs)


def enrol(
    state: State,
    text: str,
    *,
    name: str | None,
    controller: str | None,
    fingerprint: str | None,
    refuse: Check,
    connect: Connect | None = None,
    timeout: float = 30.0,
    netns: str | None = None,
) -> NetworkRecord:
    """Enrols this device with fresh keys and keeps the membership. Raises ShadowMeshError.

    Keys are kept before the first request: a join that was cut off and is tried again is the same join. `refuse`
    raises if this host can't carry the network, or joins it already; it is asked before the invite is
    used up. `connect`: how connections are made. It takes `timeout` seconds at the most.
    `netns`: where the network shall be put.
    """
    invite = parse_invite(text, controller=controller, fingerprint=fingerprint)
    mark = hashlib.sha256(text.strip().encode()).digest()
    keys, fresh = state.enrolment_keys(mark, _new_keys)
    refused = False

    def member_already(network_id: NetworkID, by: str | None = None) -> None:
        """Raises ShadowMeshError if this machine is in the network, but for this very enrolment, tried again."""
        member = next((n for n in state.networks() if n.network_id == network_id), None)
        if member is None:
            return
        same = state.secrets_of(network_id).wg_private == keys.wg_private
        if not same and not member.approved:
            raise waiting(member)
        if not same or by not in (None, member.controller.fingerprint):
            raise ShadowMeshError(
                "already_joined",
                f"this machine is in {member.name} already, as {member.ip}",
                f"`shadowmesh leave {member.name}` first, to join anew",
                kind=Kind.CONFLICT,
            )

    def check(network_id: NetworkID, network_name: str, subnets: tuple[IPNetwork, ...]) -> None:
        nonlocal refused
        refused = True
        refuse(network_id, network_name, subnets)
        member_already(network_id)
        refused = False

    device, _ = state.device()
    try:
        result = enroll(
            invite,
            device=Signer.from_secret(device),
            wg_private=keys.wg_private,
            sealing_private=keys.sealing_private,
            name=name,
            hostname=socket.gethostname(),
            check=check,
            connect=connect,
            timeout=timeout,
        )
    except ShadowMeshError as e:
        if e.code in _NO_USE or (fresh and refused):  # else a later try may be the same enrolment
            state.end_enrolment(mark)
        raise
    answer, contact = result.answer, result.contact
    member_already(answer.network_id, contact.identity.identity.fingerprint)  # what the challenge named is a claim
    record = NetworkRecord(
        network_id=answer.network_id,
        ref=answer.network,
        name=answer.network_name,
        client_id=answer.client_id,
        client_name=answer.name,
        ip=str(answer.ip),
        approved=answer.state == "approved",
        netns=netns,
        nth=1 + max((n.nth for n in state.networks()), default=0),
        controller=ControllerRecord(
            fingerprint=contact.identity.identity.fingerprint, identity=contact.identity, clock_offset=contact.offset
        ),
    )
    state.put_network(record, keys)
    if answer.map is not None and result.map is not None:
        state.save_map(result.map, answer.map)
    if answer.grant is not None:
        opened = opened_keys(keys, record.network_id, answer.grant)
        state.save_grant(record.network_id, opened, answer.grant.relay_token)
    state.end_enrolment(mark)
    return record


def join_offline(
    state_dir: Path,
    text: str,
    *,
    name: str | None,
    controller: str | None,
    fingerprint: str | None,
    timeout: float,
    netns: str | None = None,
) -> JoinResult:
    """`join` without a daemon: it takes the network up when it starts."""
    parse_invite(text, controller=controller, fingerprint=fingerprint)  # what is none leaves nothing behind
    state = State(state_dir)
    try:

        def refuse(network_id: NetworkID, wanted: str, subnets: tuple[IPNetwork, ...]) -> None:
            for other in state.networks():
                kept = state.load_map(other.network_id)
                if other.network_id == network_id or not other.wanted or kept is None or other.netns != netns:
                    continue
                for subnet in subnets:
                    refuse_overlap(wanted, subnet, other.name, kept.head.subnets)
                    for address in outer_addresses(kept.head, other.controller.identity.urls) if netns is None else ():
                        if address.version == subnet.version and address in subnet:
                            raise outer_error(wanted, subnet, address)
            host = HostNetwork(netns=netns)
            try:
                for subnet in subnets:
                    for interface, lan in host.find_overlaps(subnet, {"lo"}):
                        raise overlap_error(wanted, subnet, f"interface {interface}", lan)
            finally:
                host.close()

        record = enrol(
            state,
            text,
            name=name,
            controller=controller,
            fingerprint=fingerprint,
            refuse=refuse,
            timeout=timeout,
            netns=netns,
        )
    finally:
        state.close()
    return JoinResult(
        network=record.name,
        network_id=str(record.network_id),
        client_id=record.client_id,
        name=record.client_name,
        ip=record.ip,
        interface="",
        state="handed-over" if record.approved else "pending-approval",
    )
