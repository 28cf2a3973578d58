"""What is broken on the internet, as nftables rules at ingress: text from a state.

Rules stand in the prerouting hook of the *receiving* end of a link, as the drop of a packet on its sender's own way out
comes back to the sender as an error. What leaves a site is dropped by the core, what comes to it by its own router.
"""

from __future__ import annotations

from shadowmesh.lab.plan import CORE, LabState

TABLE = "shadowmesh_faults"


def rulesets(state: LabState) -> dict[str, str]:
    """Name (core, site or host) → nftables script that replaces the faults there; every place that can have any."""
    places = (
        CORE,
        *(c.name for c in state.carriers),
        *(s.name for s in state.sites),
        *(m.name for m in state.machines),
    )
    rules: dict[str, list[str]] = {name: [] for name in places}
    _cuts(state, rules)
    for name, percent in state.faults.loss.items():
        chance = "" if percent == 100 else f"numgen random mod 10000 < {round(percent * 100)} "
        _at_both_ends(state, rules, name, f"{chance}drop")
    for name in state.faults.udp_blocked:
        _at_both_ends(state, rules, name, "meta l4proto udp drop")
    silent = bool(state.faults.mtu)
    return {name: _script(lines, silent=silent) for name, lines in rules.items()}


def no_faults() -> str:
    """The script of a place where nothing is broken: what a fresh namespace is as good as."""
    return _script([], silent=False)


def uplink(state: LabState, name: str) -> str:
    """The interface by which a site's router or a public host is connected to the internet."""
    return "wan" if any(s.name == name for s in state.sites) else "eth0"


def upstream(state: LabState, name: str) -> tuple[str, str]:
    """The far end of that link: whose it is (the core's or a carrier's), and its interface there."""
    for site in state.sites:
        if site.name == name and site.carrier is not None:
            return site.carrier, f"sub{site.index}"
    return CORE, name


def _at_both_ends(state: LabState, rules: dict[str, list[str]], name: str, rule: str) -> None:
    place, interface = upstream(state, name)
    rules[place].append(f'iifname "{interface}" {rule}')
    rules[name].append(f'iifname "{uplink(state, name)}" {rule}')


def _cuts(state: LabState, rules: dict[str, list[str]]) -> None:
    for a, b in state.faults.cuts:
        source, target = state.machine(a), state.machine(b)
        if source.site is not None and source.site == target.site:
            rules[b].append(f"ip saddr {state.address(source)} drop")
            if state.ipv6:
                rules[b].append(f"ip6 saddr {state.address6(source)} drop")
            continue
        rules[CORE].append(f"ip saddr {state.outer_address(source)} ip daddr {state.outer_address(target)} drop")
        if state.ipv6:
            rules[CORE].append(f"ip6 saddr {state.address6(source)} ip6 daddr {state.address6(target)} drop")


def _script(lines: list[str], *, silent: bool) -> str:
    """`silent`: nobody says that a packet was too big, so that a small MTU is a black hole."""
    body = "\n    ".join(lines)
    mute = """
  chain output {
    type filter hook output priority filter
    icmp type destination-unreachable icmp code frag-needed drop
    icmpv6 type packet-too-big drop
  }"""
    return f"""\
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain prerouting {{
    type filter hook prerouting priority raw - 10
    {body}
  }}{mute if silent else ""}
}}
"""
