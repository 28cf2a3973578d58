"""One side of the pump benchmark: a TUN, a UDP socket and a python pump with fixed keys, until stdin closes.

Run inside a network namespace: `pump_node.py NAME LOCAL_INNER PEER_INNER OUTER_PEER a|b [MTU]`.
"""

from __future__ import annotations

import sys
import time
from ipaddress import ip_address, ip_network

from shadowmesh.dataplane.pumpprocess import PumpProcess
from shadowmesh.dataplane.sockets import open_udp
from shadowmesh.dataplane.tun import open_tun
from shadowmesh.host.hostnetwork import HostNetwork, InterfaceConfig
from shadowmesh.model import pump as m
from shadowmesh.model.addresses import SockAddr

PORT = 51820


def main() -> None:
    name, local, peer, outer, side, *rest = sys.argv[1:]
    mtu = int(rest[0]) if rest else 1420
    prefix = 32 if ip_address(local).version == 4 else 128
    tun, name = open_tun(name)
    HostNetwork().apply(InterfaceConfig(name, mtu, (ip_address(local),), (ip_network(f"{peer}/{prefix}"),)))
    sock = open_udp(ip_address("0.0.0.0" if ip_address(outer).version == 4 else "::"), PORT)
    pump = PumpProcess()
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    net, slot, index = m.NetIndex(0), m.Slot(0), m.PeerIndex(0)
    keys = (bytes([1]) * 32, bytes([2]) * 32)
    indices = (1, 2)
    if side == "b":
        keys, indices = keys[::-1], indices[::-1]
    session = m.Session(indices[0], indices[1], keys[0], keys[1], True, now, now + 3600)
    pump.apply(
        [
            m.AddTun(net, tun, mtu, (ip_network(f"{local}/{prefix}"),)),
            m.AddSocket(slot, sock.fileno()),
            m.PutPeer(index, net, (ip_network(f"{peer}/{prefix}"),)),
            m.SetPath(index, m.Path(slot, SockAddr(outer, PORT))),
            m.Install(index, session),
        ]
    )
    print(f"ready {pump.pid}", flush=True)
    sys.stdin.read()
    table = pump.counters()
    record = table[len(m.COUNTER_FIELDS) : 2 * len(m.COUNTER_FIELDS)].tolist()
    nobody = table[: len(m.COUNTER_FIELDS)].tolist()
    print({k: v for k, v in zip(m.COUNTER_FIELDS, record, strict=True) if v}, file=sys.stderr)
    print({k: v for k, v in zip(m.COUNTER_FIELDS, nobody, strict=True) if v}, file=sys.stderr)
    pump.close()


main()
