"""Subnets that a file's changes would make overlap: allowed, and better known before."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from shadowmesh.client_api.drift import Drift
from shadowmesh.model import api

_NAMED = 5  # of one network's overlaps


def overlaps(networks: Mapping[str, api.Network], changes: Iterable[Drift]) -> list[str]:
    """A sentence for each network whose subnet is new by the changes and that then overlaps others; each pair once."""
    subnets = {name: ipaddress.IPv4Network(network.subnet) for name, network in networks.items()}
    new: list[str] = []
    for change in changes:
        if change.kind != "network":
            continue
        known = next((name for name in subnets if name.lower() == change.name.lower()), change.name)
        if change.action == "delete":
            subnets.pop(known, None)
        elif (subnet := change.fields.get("subnet", (None, None))[1]) is not None:
            try:
                subnets[known] = ipaddress.IPv4Network(subnet)
            except ValueError:
                continue  # the controller refuses it
            new.append(known)
    found = []
    for number, name in enumerate(new):
        said = {*new[:number], name}
        alike = [f"{other} ({s})" for other, s in subnets.items() if other not in said and s.overlaps(subnets[name])]
        if alike:
            more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
            others = ", ".join(alike[:_NAMED]) + more
            found.append(f"{name} ({subnets[name]}) would overlap {others}: no machine can be in both at once")
    return found
