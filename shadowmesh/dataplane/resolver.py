"""Where this host asks for names (resolv.conf(5))."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from shadowmesh.model.addresses import IPAddress

# The second one has the servers behind systemd-resolved's own address
_FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def nameservers(files: tuple[Path, ...] = _FILES) -> set[IPAddress]:
    """Addresses of the servers that are asked, this host's own loopback left out."""
    found = set()
    for path in files:
        with suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    with suppress(ValueError):
                        found.add(ip_address(words[1].partition("%")[0]))
    return {a for a in found if not (a.is_loopback or a.is_link_local)}
