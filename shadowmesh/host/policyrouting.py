"""Policy routing of overlay interfaces (ip-rule(8)): what leads into an overlay, and what never does.

Each interface has a routing table of its own, 5,300,000 plus the interface's index, with its networks and, as `throw` routes, the outer addresses
that lie inside them. Two rules lead there:

    5198:  from all to 10.7.0.0/24 lookup main suppress_prefixlength 23     what this host routes at least as narrowly goes first: its LAN
    5199:  not from all fwmark 0x53000000/0xff000000 lookup 5300007         the overlay, for all but the mesh's own packets

A `throw` route sends the lookup on to the next rule, so an outer address is reached as if there were no overlay, by programs that mark
nothing, too. All rules and routes carry our protocol number.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from shadowmesh.dataplane.outer import FirewallMark
from shadowmesh.host.rtnetlink import MAIN_TABLE, ROUTE_PROTOCOL, THROW, UNICAST, KernelRoute, dump_routes, whole_dump
from shadowmesh.model.addresses import IPAddress, IPNetwork

TABLE_BASE: Final = 5_300_000
_LAST_PRIORITY: Final = 5198  # with the one after it before Tailscale's (5210 and on)
_TO_TABLE, _NOP = 1, 3
_INVERT: Final = 0x2
_SCOPE_LINK: Final = 253
_NO_LIMIT: Final = 0xFFFFFFFF
_SRC_VALID_MARK: Final = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")
# Of a rule: a source, interfaces, a VRF, users, an inner protocol, ports: not every packet of this host
_SELECTIVE: Final = (
    "FRA_SRC", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_L3MDEV", "FRA_UID_RANGE", "FRA_TUN_ID", "FRA_IP_PROTO",
    "FRA_SPORT_RANGE", "FRA_DPORT_RANGE",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """What of a rule matters here. `suppress`: routes of at most this prefix length don't count."""

    version: int
    priority: int
    table: int
    to: IPNetwork | None = None
    mark: FirewallMark | None = None
    inverted: bool = False
    suppress: int | None = None
    protocol: int = ROUTE_PROTOCOL
    action: int = _TO_TABLE
    selective: bool = False

    @property
    def ours(self) -> bool:
        return self.protocol == ROUTE_PROTOCOL

    @property
    def takes_all(self) -> bool:
        """Whether any unmarked packet of this host may be led away by it, as by another VPN's."""
        marked = self.mark is not None and not self.inverted
        return self.action == _TO_TABLE and not (self.selective or marked or self.to) and self.priority > 0


class PolicyRouting:
    """Over one netlink connection. Raises NetlinkError and OSError."""

    def __init__(self, ipr: Any, mark: FirewallMark, ignored: Callable[[int], Any]) -> None:
        """`ignored(errno)`: a context in which this refusal of the kernel is passed over."""
        self._ipr = ipr
        self._mark = mark
        self._ignored = ignored

    def apply(
        self,
        version: int,
        index: int,
        networks: Iterable[IPNetwork],
        source: IPAddress | None,
        around: Iterable[IPAddress],
    ) -> list[str]:
        """Makes table and rules of one IP version so. Returns what was changed, in words.

        `networks` lead into the interface, with this source address; `around` are addresses that don't, wherever they lie.
        """
        networks = [n for n in networks if n.version == version]
        table = TABLE_BASE + index
        wanted = [
            KernelRoute(ip_network(address), 0, THROW, None, table=table)
            for address in sorted(a for a in around if a.version == version)
            if any(address in n for n in networks)
        ]
        wanted += [KernelRoute(n, index, UNICAST, source, table=table) for n in networks]
        changed = self._apply_routes(version, table, wanted)
        return changed + self._apply_rules(version, table, networks)

    def _apply_routes(self, version: int, table: int, wanted: list[KernelRoute]) -> list[str]:
        present = dump_routes(version, table=table)
        changed = []
        for route in present:
            if route not in wanted:
                self._delete_route(route)
                changed.append(f"no {_words(route)}")
        for route in wanted:
            if route not in present:
                self._add_route(route)
                changed.append(_words(route))
        return changed

    def _apply_rules(self, version: int, table: int, networks: list[IPNetwork]) -> list[str]:
        rules = self.rules(version)
        ours = _of_table(rules, table, networks)
        wanted: list[Rule] = []
        if networks:
            priority = _priority(rules, ours)
            wanted = [Rule(version, priority, MAIN_TABLE, to=n, suppress=max(n.prefixlen - 1, 0)) for n in networks]
            wanted.append(Rule(version, priority + 1, table, mark=self._mark, inverted=True))
        changed = []
        for rule in wanted:
            if rule not in ours:
                self._add_rule(rule)
                changed.append(f"rule {rule.priority}")
        for rule in ours:
            if rule not in wanted:
                self._delete_rule(rule)
                changed.append(f"no rule {rule.priority}")
        return changed

    def undo(self, index: int) -> None:
        """Takes the table and the rules of an interface away, also of one that is gone."""
        for version in (4, 6):
            for rule in _of_table(self.rules(version), TABLE_BASE + index):
                self._delete_rule(rule)
            for route in dump_routes(version, table=TABLE_BASE + index):
                self._delete_route(route)

    def clean(self, living: set[int]) -> list[str]:
        """Removes what is ours and belongs to none of these interfaces. Returns it in words."""
        removed = []
        tables = {TABLE_BASE + index for index in living}
        for version in (4, 6):
            rules = self.rules(version)
            kept = {rule for table in tables for rule in _of_table(rules, table)}
            for rule in rules:
                if rule.ours and rule.action == _TO_TABLE and rule not in kept:
                    self._delete_rule(rule)
                    removed.append(f"rule {rule.priority}")
            for route in dump_routes(version, protocol=ROUTE_PROTOCOL):
                if route.table not in tables:
                    self._delete_route(route)
                    removed.append(_words(route))
        self.release_sysctl()
        return removed

    def overlays(self) -> set[int]:
        """Indices of interfaces that have a table of ours: those of other daemons on this host, too."""
        tables = {rule.table for version in (4, 6) for rule in self.rules(version) if rule.ours}
        return {table - TABLE_BASE for table in tables if table > TABLE_BASE}

    def conflicts(self) -> list[str]:
        """Others' rules that take our mark for theirs, or theirs for ours: sentences for people."""
        found: dict[str, None] = {}
        ours = self._mark
        for version in (4, 6):
            for rule in self.rules(version):
                other = rule.mark
                if rule.ours or other is None:
                    continue
                if ours.value & other.mask == other.value or other.value & ours.mask == ours.value:
                    found[
                        f"rule {rule.priority} of another program has the mark {other}, which is taken for ours ({ours}): "
                        "set SHADOWMESH_FWMARK=MARK/MASK for all of shadowmesh on this host"
                    ] = None
        return list(found)

    # src_valid_mark: a marked packet's source is looked up by its mark (ip-sysctl)

    def hold_sysctl(self) -> None:
        """Has the kernel respect marks where it validates a packet's source (rp_filter). Raises OSError.

        That it was us is written down where the setting lives: as a rule without effect in this network namespace.
        """
        if _SRC_VALID_MARK.read_text().strip() == "0":
            _SRC_VALID_MARK.write_text("1")
            with self._ignored(errno.EEXIST):  # somebody took the setting back since
                self._ipr.rule(
                    "add", family=socket.AF_INET, priority=_LAST_PRIORITY + 2, action="nop", FRA_PROTOCOL=ROUTE_PROTOCOL
                )

    def release_sysctl(self) -> None:
        """Puts that back when the last overlay of this host is gone, if it was us."""
        ours = [rule for rule in self.rules(4) if rule.ours]
        notes = [rule for rule in ours if rule.action == _NOP]
        if notes and len(notes) == len(ours):
            _SRC_VALID_MARK.write_text("0")
            for rule in notes:
                self._ipr.rule(
                    "del", family=socket.AF_INET, priority=rule.priority, action="nop", FRA_PROTOCOL=ROUTE_PROTOCOL
                )

    # the kernel's

    def rules(self, version: int) -> list[Rule]:
        """All rules of one IP version; none where the kernel doesn't have that."""
        family = _family(version)
        with self._ignored(errno.EAFNOSUPPORT):
            return [
                _rule(version, r)
                for r in whole_dump(lambda: self._ipr.get_rules(family=family))
                if r["family"] == family
            ]
        return []

    def _add_rule(self, rule: Rule) -> None:
        with self._ignored(errno.EEXIST):
            self._ipr.rule("add", **self._described(rule))

    def _delete_rule(self, rule: Rule) -> None:
        with self._ignored(errno.ENOENT):
            self._ipr.rule("del", **self._described(rule))

    @staticmethod
    def _described(rule: Rule) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "family": _family(rule.version),
            "priority": rule.priority,
            "table": rule.table,
            "FRA_PROTOCOL": ROUTE_PROTOCOL,
        }
        if rule.to is not None:
            fields |= {"dst": str(rule.to.network_address), "dst_len": rule.to.prefixlen}
        if rule.mark is not None:
            fields |= {"fwmark": rule.mark.value, "fwmask": rule.mark.mask}
        if rule.inverted:
            fields["flags"] = _INVERT
        if rule.suppress is not None:
            fields["FRA_SUPPRESS_PREFIXLEN"] = rule.suppress
        return fields

    def _add_route(self, route: KernelRoute) -> None:
        fields: dict[str, Any] = {"dst": str(route.network), "table": route.table, "proto": ROUTE_PROTOCOL}
        if route.kind == THROW:
            fields["type"] = "throw"
        else:
            fields["oif"] = route.interface
            if route.source is not None:
                fields["prefsrc"] = str(route.source)
            if route.network.version == 4:
                fields["scope"] = _SCOPE_LINK
        self._ipr.route("add", family=_family(route.network.version), **fields)

    def _delete_route(self, route: KernelRoute) -> None:
        fields: dict[str, Any] = {"dst": str(route.network), "table": route.table, "proto": route.protocol}
        if route.kind == THROW:
            fields["type"] = "throw"
        elif route.interface:
            fields["oif"] = route.interface
        with self._ignored(errno.ESRCH):  # it went by itself
            self._ipr.route("del", family=_family(route.network.version), scope=255, **fields)


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _words(route: KernelRoute) -> str:
    return f"route {'around ' if route.kind == THROW else ''}{route.network}"


def _of_table(rules: Iterable[Rule], table: int, networks: Collection[IPNetwork] = ()) -> list[Rule]:
    """Our rules that lead into a table: the one that names it and those right before it, or to its networks if somebody took that one."""
    ours = [r for r in rules if r.ours and r.action == _TO_TABLE]
    tables = {r.priority - 1: r.table for r in ours if r.table != MAIN_TABLE}
    return [
        r
        for r in ours
        if table == (tables.get(r.priority, table if r.to in networks else None) if r.table == MAIN_TABLE else r.table)
    ]


def _priority(rules: list[Rule], present: list[Rule]) -> int:
    """Where rules of a table begin: before all that would lead an overlay's packets elsewhere; stays as it is while that holds."""
    before = min((r.priority for r in rules if not r.ours and r.takes_all), default=_LAST_PRIORITY + 2)
    known = [r.priority if r.table == MAIN_TABLE else r.priority - 1 for r in present]
    if known and known[0] + 1 < before:
        return known[0]
    taken = {r.priority for r in rules if r not in present}
    priority = min(_LAST_PRIORITY, before - 2)
    while priority > 1 and taken & {priority, priority + 1}:
        priority -= 2
    return max(priority, 1)


def _rule(version: int, message: Any) -> Rule:
    to = message.get_attr("FRA_DST")
    mark = message.get_attr("FRA_FWMARK")
    suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    mask = message.get_attr("FRA_FWMASK")
    return Rule(
        version,
        message.get_attr("FRA_PRIORITY") or 0,
        message.get_attr("FRA_TABLE") or message["table"],
        None if to is None else ip_network(f"{to}/{message['dst_len']}", strict=False),
        None if not mark else FirewallMark(mark, _NO_LIMIT if mask is None else mask),
        bool(message["flags"] & _INVERT),
        None if suppress in (None, _NO_LIMIT) else suppress,
        message.get_attr("FRA_PROTOCOL") or 0,
        message["action"],
        any(message.get_attr(name) for name in _SELECTIVE),
    )
