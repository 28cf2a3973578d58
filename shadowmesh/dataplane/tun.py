"""TUN devices: opening one, and the kernel offloads that make packets of 64 KB pass through it.

With IFF_VNET_HDR a virtio_net_hdr of 10 bytes stands before each packet (virtio 1.2, section 5.1.6).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Final

from shadowmesh.model.errors import Kind, ShadowMeshError

VNET_HEADER: Final = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
VNET_SIZE: Final = VNET_HEADER.size
NEEDS_CSUM: Final = 1
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

_TUNGETIFF: Final = 0x800454D2
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_VNET_HDR: Final = 0x4000
_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_TCP_OFFLOADS: Final = _CSUM | _TSO4 | _TSO6 | _TSO_ECN


@dataclass(frozen=True, slots=True)
class Offloads:
    """What a TUN descriptor can do."""

    header: bool = False  # a virtio_net_hdr stands before each packet
    tcp: bool = False
    udp: bool = False  # since Linux 6.2


def open_tun(name: str) -> tuple[int, str]:
    """Makes a TUN device for super-packets. Returns its descriptor (non-blocking, close-on-exec) and its name ("tun%d" numbers it).

    The device goes with the descriptor. Raises ShadowMeshError: `tun_not_allowed`, `tun_missing`, `tun_name_taken`, `tun_failed`.
    """
    import pytun

    try:
        device = pytun.TunTapDevice(name, pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR)
    except pytun.Error as e:
        number = e.args[0] if e.args and isinstance(e.args[0], int) else getattr(e, "errno", 0)
        raise _refusal(name, number, str(e)) from e
    except OSError as e:
        raise _refusal(name, e.errno or 0, str(e)) from e
    try:
        fd = os.dup(device.fileno())  # close-on-exec, unlike pytun's own
        os.set_blocking(fd, False)
        return fd, str(device.name)
    finally:
        device.close()


def _refusal(name: str, number: int, text: str) -> ShadowMeshError:
    if number in (errno.EPERM, errno.EACCES):
        return ShadowMeshError(
            "tun_not_allowed",
            f"no permission to make the interface {name}",
            "run the daemon as root",
            kind=Kind.NOT_ALLOWED,
        )
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return ShadowMeshError(
            "tun_missing", "this kernel has no /dev/net/tun", "load the tun module, or give the container /dev/net/tun"
        )
    if number == errno.EBUSY:
        return ShadowMeshError(
            "tun_name_taken",
            f"the interface {name} is in use",
            "stop the other program that owns it",
            kind=Kind.CONFLICT,
        )
    return ShadowMeshError("tun_failed", f"the interface {name} can't be made: {text}", "see `shadowmesh doctor`")


def tun_name(fd: int) -> str | None:
    """What the device of a descriptor is called now, None if it was deleted."""
    request = bytearray(40)
    try:
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError:
        return None
    return request[:16].rstrip(b"\0").decode(errors="replace")


def negotiate(fd: int) -> Offloads:
    """Switches on what the kernel can do for this descriptor. One that is no TUN (a socketpair in tests) can do nothing."""
    request = bytearray(40)
    try:
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError:
        return Offloads()
    if not struct.unpack_from("=H", request, 16)[0] & _IFF_VNET_HDR:
        return Offloads()
    for wanted in (_TCP_OFFLOADS | _USO4 | _USO6, _TCP_OFFLOADS, _CSUM):
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, wanted)
        except OSError:
            continue
        return Offloads(header=True, tcp=bool(wanted & _TSO4), udp=bool(wanted & _USO4))
    return Offloads(header=True)
