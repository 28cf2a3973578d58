"""What a lab is made of, and its addresses: plain values, no I/O.

    core ─┬─ s1 (router) ── lan ── h1, …      one routed link per site and per public host; all faults of the
          ├─ s2 (router) ── lan ── h2, …      internet itself happen in the core
          ├─ c3 (carrier) ── s3 (router) ── lan ── h3
          ├─ relay1, controller1, public1     public hosts

Addresses look public (45/8, 46/8, 11/8), as miniupnpd and other software treat documentation ranges as private;
they exist inside the lab's namespaces only. Names of namespaces are `smlab-ID-NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeVar

import msgspec

from shadowmesh.lab.nat import MAPPING_SECONDS, NatType
from shadowmesh.model.codec import Struct
from shadowmesh.model.errors import Kind, ShadowMeshError

PREFIX = "smlab-"
CORE = "wan"
MAX_SITES = 200
MAX_HOSTS = 200
TYPICAL_SITES = (
    NatType.NONE,
    NatType.FULL_CONE,
    NatType.PORT_RESTRICTED,
    NatType.PORT_RESTRICTED,
    NatType.SYMMETRIC,
)
_ID = re.compile(r"[a-z0-9]{1,24}")
_N = TypeVar("_N")

Role = Literal["host", "relay", "controller", "public"]


class SiteSpec(Struct, frozen=True, kw_only=True):
    """One place with a router. `carrier`: sites of type cgnat that name the same carrier share its NAT."""

    nat: NatType = NatType.NONE
    hosts: int = 1
    carrier: str | None = None
    mapping_seconds: int = MAPPING_SECONDS


class LabSpec(Struct, frozen=True, kw_only=True):
    """`public` is a number of plain public hosts (public1, …), for servers of tests. IPv6 is off unless asked for."""

    sites: tuple[SiteSpec, ...] = ()
    relays: int = 0
    controllers: int = 0
    public: int = 0
    ipv6: bool = False


class Site(Struct, frozen=True, kw_only=True):
    """`life` counts its router's reboots, `renumbered` its changes of public address."""

    name: str
    index: int
    nat: NatType
    carrier: str | None = None
    life: int = 0
    renumbered: int = 0
    mapping_seconds: int = MAPPING_SECONDS


class CarrierNat(Struct, frozen=True, kw_only=True):
    name: str
    index: int
    life: int = 0


class Machine(Struct, frozen=True, kw_only=True):
    """A host in a site, or (site None) a public one."""

    name: str
    role: Role
    index: int
    site: str | None = None


class Faults(Struct, frozen=True, kw_only=True):
    """What is broken now. `cuts` are directed pairs of machine names; losses are percent each way, per site or public host."""

    cuts: tuple[tuple[str, str], ...] = ()
    loss: Mapping[str, float] = {}
    udp_blocked: tuple[str, ...] = ()
    mtu: Mapping[str, int] = {}
    rate: Mapping[str, float] = {}


class LabState(Struct, frozen=True, kw_only=True):
    """A whole lab at a moment; kept as JSON, and every address follows from it."""

    schema: str = "shadowmesh.lab-state/1"
    id: str
    directory: str
    ipv6: bool = False
    sites: tuple[Site, ...] = ()
    carriers: tuple[CarrierNat, ...] = ()
    machines: tuple[Machine, ...] = ()
    faults: Faults = Faults()

    # finding

    def site(self, name: str) -> Site:
        return _find(self.sites, name, "site")

    def machine(self, name: str) -> Machine:
        return _find(self.machines, name, "host")

    def carrier(self, name: str) -> CarrierNat:
        return _find(self.carriers, name, "carrier")

    def hosts_of(self, site: str) -> tuple[Machine, ...]:
        return tuple(m for m in self.machines if m.site == site)

    def namespace(self, name: str) -> str:
        return f"{PREFIX}{self.id}-{name}"

    def namespaces(self) -> tuple[str, ...]:
        named = (
            CORE,
            *(c.name for c in self.carriers),
            *(s.name for s in self.sites),
            *(m.name for m in self.machines),
        )
        return tuple(self.namespace(n) for n in named)

    def end_of(self, name: str) -> str:
        """The site or public host at whose uplink a fault of `name` (site, host or public host) happens."""
        if any(s.name == name for s in self.sites):
            return name
        machine = self.machine(name)
        return machine.site or machine.name

    # changing

    def with_site(self, site: Site) -> LabState:
        return msgspec.structs.replace(self, sites=tuple(site if s.name == site.name else s for s in self.sites))

    def with_machine(self, machine: Machine) -> LabState:
        machines = tuple(machine if m.name == machine.name else m for m in self.machines)
        return msgspec.structs.replace(self, machines=machines)

    def with_carrier(self, carrier: CarrierNat) -> LabState:
        others = tuple(c for c in self.carriers if c.name != carrier.name)
        return msgspec.structs.replace(self, carriers=(*others, carrier))

    def without_carrier(self, name: str) -> LabState:
        return msgspec.structs.replace(self, carriers=tuple(c for c in self.carriers if c.name != name))

    # addresses

    def public_address(self, site: Site) -> IPv4Address:
        """The address under which the internet sees the site's router (of the carrier for cgnat)."""
        if site.carrier is not None:
            return carrier_address(self.carrier(site.carrier))
        return IPv4Address(f"45.{site.index}.0.{2 + site.renumbered % 200}")

    def lan(self, site: Site) -> IPv4Network:
        return IPv4Network(
            f"45.{site.index}.1.0/24" if site.nat is NatType.NONE else f"192.168.{site.index}.0/24",
        )

    def address(self, machine: Machine) -> IPv4Address:
        """The machine's own address, on its LAN or public."""
        if machine.site is None:
            return public_link(machine)[2]
        return self.lan(self.site(machine.site))[_host_number(machine)]

    def outer_address(self, machine: Machine) -> IPv4Address:
        """The address under which others on the internet see the machine."""
        if machine.site is None:
            return self.address(machine)
        site = self.site(machine.site)
        return self.address(machine) if site.nat is NatType.NONE else self.public_address(site)

    def address6(self, machine: Machine) -> IPv6Address | None:
        if not self.ipv6:
            return None
        if machine.site is None:
            return public_link6(machine)[2]
        return lan6(self.site(machine.site))[_host_number(machine)]


def _host_number(machine: Machine) -> int:
    return 9 + machine.index


def carrier_address(carrier: CarrierNat) -> IPv4Address:
    return IPv4Address(f"46.{carrier.index}.0.2")


def public_link(machine: Machine) -> IPv4Network:
    third = {"relay": 0, "controller": 64, "public": 128}[machine.role] + machine.index
    return IPv4Network(f"11.0.{third}.0/24")


def public_link6(machine: Machine) -> IPv6Network:
    return IPv6Network(f"2a04:{int(public_link(machine).network_address) >> 8 & 0xFF:x}::/64")


def site_prefix6(site: Site) -> IPv6Network:
    return IPv6Network(f"2a05:{site.index:x}::/32")


def site_link6(site: Site) -> IPv6Network:
    return IPv6Network(f"2a05:{site.index:x}::/64")


def lan6(site: Site) -> IPv6Network:
    return IPv6Network(f"2a05:{site.index:x}:1::/64")


def carrier_link6(carrier: CarrierNat) -> IPv6Network:
    return IPv6Network(f"2a06:{carrier.index:x}::/64")


def check_id(lab_id: str) -> str:
    """The id itself. Raises ShadowMeshError (wrong use) if namespaces can't be named after it."""
    if not _ID.fullmatch(lab_id):
        raise ShadowMeshError(
            "lab_id", f"{lab_id!r} can't name a lab", "use 1 to 24 small letters and digits", kind=Kind.USAGE
        )
    return lab_id


def plan(spec: LabSpec, lab_id: str, directory: str) -> LabState:
    """The state in which a lab starts: sites s1…, hosts h1… counted through all sites, relay1…, controller1…, public1….

    Raises ShadowMeshError (wrong use) if there are too many of something.
    """
    check_id(lab_id)
    if len(spec.sites) > MAX_SITES or any(not 0 <= s.hosts <= MAX_HOSTS for s in spec.sites):
        raise ShadowMeshError(
            "lab_size", "that lab is too large", f"at most {MAX_SITES} sites of {MAX_HOSTS} hosts", kind=Kind.USAGE
        )
    if max(spec.relays, spec.controllers, spec.public) > 60 or min(spec.relays, spec.controllers, spec.public) < 0:
        raise ShadowMeshError("lab_size", "that lab is too large", "at most 60 public hosts of a kind", kind=Kind.USAGE)
    state = LabState(id=lab_id, directory=directory, ipv6=spec.ipv6)
    sites: list[Site] = []
    machines: list[Machine] = []
    host = 0
    for index, wanted in enumerate(spec.sites, 1):
        name = f"s{index}"
        state, carrier = with_carrier_for(state, index, wanted.nat, wanted.carrier)
        sites.append(
            Site(name=name, index=index, nat=wanted.nat, carrier=carrier, mapping_seconds=wanted.mapping_seconds)
        )
        for within in range(1, wanted.hosts + 1):
            host += 1
            machines.append(Machine(name=f"h{host}", role="host", index=within, site=name))
    roles: tuple[tuple[Role, int], ...] = (
        ("relay", spec.relays),
        ("controller", spec.controllers),
        ("public", spec.public),
    )
    for role, count in roles:
        machines.extend(Machine(name=f"{role}{n}", role=role, index=n) for n in range(1, count + 1))
    return msgspec.structs.replace(state, sites=tuple(sites), machines=tuple(machines))


def with_carrier_for(state: LabState, index: int, nat: NatType, wanted: str | None) -> tuple[LabState, str | None]:
    """The state with the carrier that a site of this type needs, and the carrier's name (None for other types)."""
    if nat is not NatType.CGNAT:
        if wanted is not None:
            raise ShadowMeshError("lab_carrier", f"a {nat} site has no carrier", "only cgnat has", kind=Kind.USAGE)
        return state, None
    name = wanted or f"c{index}"
    if not any(c.name == name for c in state.carriers):
        if not re.fullmatch(r"c[0-9]{1,3}", name):
            raise ShadowMeshError("lab_carrier", f"{name!r} can't name a carrier", "use c1, c2, …", kind=Kind.USAGE)
        free = next(i for i in range(1, 255) if all(c.index != i for c in state.carriers))
        state = state.with_carrier(CarrierNat(name=name, index=free))
    return state, name


def free_host_index(state: LabState, site: str) -> int:
    """The lowest number that no host of the site has, for one that comes to it."""
    taken = {m.index for m in state.hosts_of(site)}
    return next(i for i in range(1, MAX_HOSTS + 40) if i not in taken)


def _find(items: Iterable[_N], name: str, what: str) -> _N:
    known = []
    for item in items:
        own = str(getattr(item, "name", ""))
        if own == name:
            return item
        known.append(own)
    names = ", ".join(known) or "none"
    raise ShadowMeshError("lab_unknown", f"the lab has no {what} {name!r}", f"it has {names}", kind=Kind.NOT_FOUND)
