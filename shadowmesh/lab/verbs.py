"""What `shadowmesh lab …` does, as functions that take and return plain values."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shadowmesh.lab import internet
from shadowmesh.lab.faults import upstream
from shadowmesh.lab.internet import Lab
from shadowmesh.lab.nat import NatType
from shadowmesh.lab.plan import CORE, TYPICAL_SITES, LabSpec, LabState, SiteSpec
from shadowmesh.model.codec import to_builtins
from shadowmesh.model.errors import Kind, ShadowMeshError

DEFAULT_ID = "lab"


def parse_nat(text: str) -> NatType:
    """A NAT type by its name; dashes are taken, too. Raises ShadowMeshError (wrong use) that lists them."""
    try:
        return NatType(text.strip().lower().replace("-", "_"))
    except ValueError:
        known = ", ".join(NatType)
        raise ShadowMeshError("lab_nat", f"no NAT type {text!r}", f"there are {known}", kind=Kind.USAGE) from None


def up(
    sites: Sequence[str] = (),
    *,
    relays: int = 1,
    controllers: int = 1,
    public: int = 0,
    hosts: int = 1,
    ipv6: bool = False,
    lab_id: str = DEFAULT_ID,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Brings a lab up that stays until `down`; without sites those of the demo. Returns what `status` does."""
    types = [parse_nat(s) for s in sites] or list(TYPICAL_SITES)
    spec = LabSpec(
        sites=tuple(SiteSpec(nat=nat, hosts=hosts) for nat in types),
        relays=relays,
        controllers=controllers,
        public=public,
        ipv6=ipv6,
    )
    lab = Lab(spec, lab_id, directory)
    lab.up(guarded=True)
    lab.keep()
    return _describe(lab)


def execute(host: str, argv: Sequence[str], *, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> int:
    """Runs a program on a host in the foreground, with this process's terminal; returns its exit code (128 + signal).

    Raises ShadowMeshError: lab_program_unknown, lab_program_denied."""
    machine = Lab.attach(lab_id, directory).host(host)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program
    try:
        code = machine.popen(argv, stdin=None, new_session=False).wait()
    except FileNotFoundError:
        raise ShadowMeshError(
            "lab_program_unknown", f"no program {argv[0]!r}", "check its name", kind=Kind.NOT_FOUND
        ) from None
    except PermissionError:
        raise ShadowMeshError(
            "lab_program_denied", f"{argv[0]!r} can't be run", "is it a program?", kind=Kind.NOT_ALLOWED
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def status(*, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """Sites, hosts, namespaces, addresses, state directories, processes and faults."""
    return _describe(Lab.attach(lab_id, directory))


def down(*, lab_id: str = DEFAULT_ID, everything: bool = False, directory: Path | None = None) -> dict[str, Any]:
    """Takes a lab down, or all; works on leftovers, and where nothing is."""
    chosen = internet.all_labs(directory) if everything else [lab_id]
    return {"labs": chosen, "removed": [name for one in chosen for name in internet.down(one, directory)]}


def nat(
    site: str, kind: str, *, lab_id: str = DEFAULT_ID, directory: Path | None = None, carrier: str | None = None
) -> dict[str, Any]:
    """Gives a site another type of NAT while it runs."""
    lab = Lab.attach(lab_id, directory)
    lab.nat(site, parse_nat(kind), carrier=carrier)
    return _site(lab.state, site)


def cut(
    a: str, b: str, *, one_way: bool = False, lab_id: str = DEFAULT_ID, directory: Path | None = None
) -> dict[str, Any]:
    """Drops everything between two hosts' outer addresses."""
    lab = Lab.attach(lab_id, directory)
    lab.cut(a, b, one_way=one_way)
    return _faults(lab)


def loss(site: str, percent: float, *, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """Loses a part of the packets each way at a site's (or public host's) uplink."""
    lab = Lab.attach(lab_id, directory)
    lab.loss(site, percent)
    return _faults(lab)


def block_udp(
    site: str, *, blocked: bool = True, lab_id: str = DEFAULT_ID, directory: Path | None = None
) -> dict[str, Any]:
    lab = Lab.attach(lab_id, directory)
    lab.block_udp(site, blocked=blocked)
    return _faults(lab)


def mtu(site: str, size: int | None, *, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """A black hole for larger packets at a site's uplink."""
    lab = Lab.attach(lab_id, directory)
    lab.mtu(site, size)
    return _faults(lab)


def rate(site: str, mbit: float | None, *, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """A bottleneck at a site's uplink."""
    lab = Lab.attach(lab_id, directory)
    lab.rate(site, mbit)
    return _faults(lab)


def reboot(
    site: str,
    *,
    new_address: bool = False,
    carrier: bool = False,
    lab_id: str = DEFAULT_ID,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Restarts a site's router (or the carrier's above it)."""
    lab = Lab.attach(lab_id, directory)
    lab.reboot(site, new_address=new_address, carrier=carrier)
    return _site(lab.state, site)


def forget(site: str, *, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """Lets a site's NAT mappings expire now."""
    lab = Lab.attach(lab_id, directory)
    lab.forget(site)
    return _site(lab.state, site)


def roam(host: str, site: str, *, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """Moves a host to another site."""
    lab = Lab.attach(lab_id, directory)
    lab.roam(host, site)
    return _host(lab, host)


def heal(*, lab_id: str = DEFAULT_ID, directory: Path | None = None) -> dict[str, Any]:
    """Ends all faults."""
    lab = Lab.attach(lab_id, directory)
    lab.heal()
    return _faults(lab)


def _describe(lab: Lab) -> dict[str, Any]:
    state = lab.state
    return {
        "id": state.id,
        "directory": state.directory,
        "ipv6": state.ipv6,
        "core": state.namespace(CORE),
        "sites": [_site(state, site.name) for site in state.sites],
        "hosts": [_host(lab, machine.name) for machine in state.machines],
        "faults": _faults(lab),
    }


def _site(state: LabState, name: str) -> dict[str, Any]:
    site = state.site(name)
    return {
        "name": name,
        "nat": site.nat.value,
        "namespace": state.namespace(name),
        "public_address": str(state.public_address(site)),
        "lan": str(state.lan(site)),
        "carrier": site.carrier,
        "uplink": ":".join(upstream(state, name)),
        "reboots": site.life,
        "hosts": [machine.name for machine in state.hosts_of(name)],
    }


def _host(lab: Lab, name: str) -> dict[str, Any]:
    host = lab.host(name)
    return {
        "name": name,
        "role": host.machine.role,
        "site": host.machine.site,
        "namespace": host.namespace,
        "address": host.address,
        "outer_address": host.outer_address,
        "address6": host.address6,
        "state_dir": str(host.state_directory),
        "processes": host.processes(),
    }


def _faults(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = to_builtins(lab.state.faults)
    return found
