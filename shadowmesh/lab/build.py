"""From a state to namespaces, links and rules; and from one state to the next."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from shadowmesh.lab import faults as fault_rules
from shadowmesh.lab import netns
from shadowmesh.lab.nat import NatType, Router, carrier_ruleset, igd_configuration, ruleset
from shadowmesh.lab.netlink import ANY4, ANY6, Address, at, flush_conntrack, make_namespace, wires
from shadowmesh.lab.plan import (
    CORE,
    CarrierNat,
    LabState,
    Machine,
    Site,
    carrier_address,
    carrier_link6,
    lan6,
    public_link,
    public_link6,
    site_link6,
    site_prefix6,
)
from shadowmesh.model.errors import Kind, ShadowMeshError

_MTU = 1500
_GSO_SEGMENTS = 65535


def everything(state: LabState) -> None:
    """Brings a planned lab up, in a fresh set of namespaces."""
    make_namespace(state.namespace(CORE), forwards=True)
    for carrier in state.carriers:
        _add_carrier(state, carrier)
    for site in state.sites:
        _add_site(state, site)
    for machine in state.machines:
        make_namespace(state.namespace(machine.name), forwards=False)
        if machine.site is None:
            _connect_public(state, machine)
        else:
            _connect_host(state, machine)
    with ThreadPoolExecutor(4) as pool:  # each waits for an nft process
        list(pool.map(lambda site: _load_nat(state, site), state.sites))


def change_nat(old: LabState, new: LabState, name: str) -> None:
    """Gives a site another NAT; moves it below a carrier or away from one, renumbers its LAN, if the type wants it."""
    before, after = old.site(name), new.site(name)
    if before.nat is NatType.IGD:
        netns.end_processes([new.namespace(name)])
    if before.carrier != after.carrier:
        _disconnect_site(old, before)
        if after.carrier is not None and all(c.name != after.carrier for c in old.carriers):
            _add_carrier(new, new.carrier(after.carrier))
        _connect_site(new, after)
        if before.carrier is not None and all(c.name != before.carrier for c in new.carriers):
            _remove_carrier(new, before.carrier)
    elif old.lan(before) != new.lan(after):
        _route_lan(old, new, after)
    _load_nat(new, after)
    if old.lan(before) != new.lan(after):
        with wires(new.namespace(name)) as router:
            router.drop_addresses("lan")
            router.up("lan", *_lan_addresses(new, after))
        for machine in new.hosts_of(name):
            _number_host(new, machine)
    flush_conntrack(new.namespace(name))


def reboot(old: LabState, new: LabState, name: str, *, carrier: bool) -> None:
    """Restarts a router, or the carrier's above it."""
    if carrier:
        above = new.site(name).carrier
        assert above is not None
        _load_carrier(new, new.carrier(above))
        flush_conntrack(new.namespace(above))
        return
    before, after = old.site(name), new.site(name)
    if before.nat is NatType.IGD:
        netns.end_processes([new.namespace(name)])
    if before.renumbered != after.renumbered:
        with wires(new.namespace(name)) as router:
            router.drop_addresses("wan")
        _number_uplink(new, after)
    _load_nat(new, after)
    flush_conntrack(new.namespace(name))


def forget(state: LabState, name: str) -> None:
    """Lets the mappings of a site's NATs expire."""
    site = state.site(name)
    if site.nat is not NatType.IGD:  # what was asked for by UPnP or NAT-PMP doesn't go by idling
        _load_nat(state, site)
    flush_conntrack(state.namespace(name))
    if site.carrier is not None:
        flush_conntrack(state.namespace(site.carrier))


def roam(old: LabState, new: LabState, name: str) -> None:
    """Pulls a host's cable out of one router and into another."""
    here, there = old.machine(name), new.machine(name)
    if here == there or here.site is None or there.site is None:
        return
    with wires(old.namespace(here.site)) as router:
        router.move(name, new.namespace(there.site), name)
    with wires(new.namespace(there.site)) as router:
        router.enslave(name, "lan")
        router.up(name, ipv6=False)
    _number_host(new, there)


def faults(old: LabState, new: LabState) -> None:
    """Loads the fault rules that differ, and sets the links' MTU, rate and segmentation."""
    known = fault_rules.rulesets(old)
    untouched = fault_rules.no_faults()
    changed = {
        name: script for name, script in fault_rules.rulesets(new).items() if known.get(name, untouched) != script
    }
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: netns.run_nft(new.namespace(item[0]), item[1]), changed.items()))
    for end in sorted({*_shaped(old), *_shaped(new)}):
        place, interface = fault_rules.upstream(new, end)
        _shape(new, end, place, interface)
        _shape(new, end, end, fault_rules.uplink(new, end))


def _shaped(state: LabState) -> set[str]:
    return {*state.faults.mtu, *state.faults.rate, *state.faults.loss}


def _shape(state: LabState, end: str, place: str, interface: str) -> None:
    broken = state.faults
    with wires(state.namespace(place)) as there:
        # packets have to be lost one by one, not in bundles of 64 KB
        single = end in broken.loss or end in broken.mtu or end in broken.rate
        there.set(interface, mtu=broken.mtu.get(end, _MTU), gso_max_segs=1 if single else _GSO_SEGMENTS)
        rate = broken.rate.get(end)
        there.limit_rate(interface, None if rate is None else int(rate * 125_000))


# carriers


def _add_carrier(state: LabState, carrier: CarrierNat) -> None:
    namespace = state.namespace(carrier.name)
    make_namespace(namespace, forwards=True)
    network = IPv4Network(f"46.{carrier.index}.0.0/24")
    with wires(state.namespace(CORE)) as core, wires(namespace) as inside:
        core.add_veth(carrier.name, namespace, "wan")
        outer, inner = [at(network, 1)], [Address(carrier_address(carrier), network)]
        if state.ipv6:
            outer.append(at(carrier_link6(carrier), 1))
            inner.append(at(carrier_link6(carrier), 2))
        core.up(carrier.name, *outer, ipv6=state.ipv6)
        inside.up("wan", *inner, ipv6=state.ipv6)
        inside.route(ANY4, network[1])
        if state.ipv6:
            inside.route(ANY6, carrier_link6(carrier)[1])
    _load_carrier(state, carrier)


def _load_carrier(state: LabState, carrier: CarrierNat) -> None:
    netns.run_nft(state.namespace(carrier.name), carrier_ruleset(carrier.life))


def _remove_carrier(state: LabState, name: str) -> None:
    with wires(state.namespace(CORE)) as core:
        core.remove(name)
    netns.delete(state.namespace(name))


# sites


def _add_site(state: LabState, site: Site) -> None:
    namespace = state.namespace(site.name)
    make_namespace(namespace, forwards=True)
    _connect_site(state, site)
    with wires(namespace) as router:
        router.add_bridge("lan")
        router.up("lan", *_lan_addresses(state, site), ipv6=state.ipv6)
    with netns.entered(namespace):
        netns.write_sysctl(
            {
                "netfilter/nf_conntrack_udp_timeout": min(30, site.mapping_seconds),
                "netfilter/nf_conntrack_udp_timeout_stream": site.mapping_seconds,
            }
        )


def _lan_addresses(state: LabState, site: Site) -> list[Address]:
    return [at(state.lan(site), 1), *([at(lan6(site), 1)] if state.ipv6 else [])]


def _uplink_network(site: Site) -> IPv4Network:
    return IPv4Network(f"45.{site.index}.0.0/24" if site.carrier is None else f"100.64.{site.index}.0/24")


def _uplink_address(state: LabState, site: Site) -> IPv4Address:
    return state.public_address(site) if site.carrier is None else _uplink_network(site)[2]


def _connect_site(state: LabState, site: Site) -> None:
    place, interface = fault_rules.upstream(state, site.name)
    network = _uplink_network(site)
    with wires(state.namespace(place)) as above:
        above.add_veth(interface, state.namespace(site.name), "wan")
        addresses = [at(network, 1), *([at(site_link6(site), 1)] if state.ipv6 else [])]
        above.up(interface, *addresses, ipv6=state.ipv6)
    _number_uplink(state, site)


def _number_uplink(state: LabState, site: Site) -> None:
    """Addresses and routes on both sides of a site's uplink."""
    place, _ = fault_rules.upstream(state, site.name)
    network, own = _uplink_network(site), _uplink_address(state, site)
    with wires(state.namespace(site.name)) as router, wires(state.namespace(place)) as above:
        addresses = [Address(own, network), *([at(site_link6(site), 2)] if state.ipv6 else [])]
        router.up("wan", *addresses, ipv6=state.ipv6)
        router.route(ANY4, network[1])
        if site.nat is NatType.NONE:
            above.route(state.lan(site), own)
        if state.ipv6:
            router.route(ANY6, site_link6(site)[1])
            above.route(site_prefix6(site), site_link6(site)[2])
    if state.ipv6 and site.carrier is not None:
        with wires(state.namespace(CORE)) as core:
            core.route(site_prefix6(site), carrier_link6(state.carrier(site.carrier))[2])


def _disconnect_site(state: LabState, site: Site) -> None:
    place, interface = fault_rules.upstream(state, site.name)
    with wires(state.namespace(place)) as above:
        above.remove(interface)
    if state.ipv6:
        with wires(state.namespace(CORE)) as core:
            core.unroute(site_prefix6(site))


def _route_lan(old: LabState, new: LabState, site: Site) -> None:
    """The internet has a route to a LAN only where that is public."""
    with wires(new.namespace(CORE)) as core:
        if site.nat is NatType.NONE:
            core.route(new.lan(site), _uplink_address(new, site))
        else:
            core.unroute(old.lan(old.site(site.name)))


def _load_nat(state: LabState, site: Site) -> None:
    public = _uplink_address(state, site)
    netns.run_nft(state.namespace(site.name), ruleset(Router(site.nat, public, site.life, site.mapping_seconds)))
    if site.nat is NatType.IGD:
        _start_igd(state, site, public)


def _start_igd(state: LabState, site: Site, public: IPv4Address) -> None:
    program = shutil.which("miniupnpd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
    if program is None:
        raise ShadowMeshError(
            "lab_no_igd",
            "a site of type igd needs miniupnpd",
            "on Debian: apt-get install miniupnpd-nftables",
            kind=Kind.FAILED,
        )
    directory = Path(state.directory, state.id, site.name)
    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    configuration = directory / "miniupnpd.conf"
    lan = str(state.lan(site)[1])
    identity = str(uuid.uuid5(uuid.NAMESPACE_DNS, state.namespace(site.name)))
    configuration.write_text(igd_configuration(lan, public, str(directory / "leases"), identity))
    # it puts itself into the background; it ends, as everything, with the namespace
    started = netns.spawn(
        state.namespace(site.name),
        [program, "-f", str(configuration), "-P", str(directory / "miniupnpd.pid")],
        hostname=site.name,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        new_session=True,
    )
    if started.wait(10):
        raise ShadowMeshError("lab_igd", f"miniupnpd ended with {started.returncode}", f"see {configuration}")


# machines


def _connect_public(state: LabState, machine: Machine) -> None:
    namespace = state.namespace(machine.name)
    network, network6 = public_link(machine), public_link6(machine)
    with wires(state.namespace(CORE)) as core, wires(namespace) as inside:
        core.add_veth(machine.name, namespace, "eth0")
        outer, inner = [at(network, 1)], [at(network, 2)]
        if state.ipv6:
            outer.append(at(network6, 1))
            inner.append(at(network6, 2))
        core.up(machine.name, *outer, ipv6=state.ipv6)
        inside.up("eth0", *inner, ipv6=state.ipv6)
        inside.route(ANY4, network[1])
        if state.ipv6:
            inside.route(ANY6, network6[1])


def _connect_host(state: LabState, machine: Machine) -> None:
    assert machine.site is not None
    with wires(state.namespace(machine.site)) as router:
        router.add_veth(machine.name, state.namespace(machine.name), "eth0")
        router.enslave(machine.name, "lan")
        router.up(machine.name, ipv6=False)
    _number_host(state, machine)


def _number_host(state: LabState, machine: Machine) -> None:
    """Gives a host in a site the addresses and the default route of where it is now, instead of those it has."""
    assert machine.site is not None
    site = state.site(machine.site)
    lan = state.lan(site)
    with wires(state.namespace(machine.name)) as inside:
        inside.drop_addresses("eth0")
        addresses = [Address(state.address(machine), lan)]
        own6 = state.address6(machine)
        if own6 is not None:
            addresses.append(Address(own6, lan6(site)))
        inside.up("eth0", *addresses, ipv6=state.ipv6)
        inside.route(ANY4, lan[1])
        if state.ipv6:
            inside.route(ANY6, lan6(site)[1])
