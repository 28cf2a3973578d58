from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from shadowmesh.dataplane.resolver import nameservers


def test_name_servers_are_read_from_all_files_but_this_hosts_own(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\nnameserver\nnameserver nonsense\n")
    real.write_text(
        "# kept by a program\nnameserver 198.51.100.53\nnameserver fe80::1%eth0\n  nameserver 2001:db8::53\n"
    )
    found = nameservers((stub, real, tmp_path / "none"))
    assert found == {ip_address("198.51.100.53"), ip_address("2001:db8::53")}
