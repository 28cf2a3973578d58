"""`shadowmesh lab …` and `shadowmesh demo`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowmesh.cli import suggest
from shadowmesh.cli.base import Call, fail, new_app, table, verb
from shadowmesh.model.errors import ShadowMeshError

if TYPE_CHECKING:
    from shadowmesh.lab.world import World

LabID = Annotated[str, typer.Option("--lab", envvar="SHADOWMESH_LAB", help="The lab's id; several may be up.")]
Site = Annotated[str, typer.Argument(help="A site: s1, s2, …", metavar="SITE", autocompletion=suggest.site)]
Host = Annotated[
    str, typer.Argument(help="A host: h1, …, relay1, controller1.", metavar="HOST", autocompletion=suggest.host)
]

_READ_S = 4.0  # to read what the demo has shown
_SHELL_CODES = {"lab_program_denied": 126, "lab_program_unknown": 127}  # as a shell has them


def attach(app: typer.Typer) -> None:
    verb(app, "demo", ["demo", "demo --once"])(demo)
    group = new_app("A whole internet on this machine: sites behind NATs, faults. Needs root.")
    verb(group, "up", ["lab up", "lab up --site symmetric --site cgnat --ipv6"])(up)
    verb(group, "exec", "lab exec h1 -- ping -c 3 10.77.0.2")(execute)
    verb(group, "status", "lab status")(status)
    verb(group, "down", "lab down --all")(down)
    verb(group, "nat", "lab nat s3 symmetric")(nat)
    verb(group, "cut", "lab cut h1 h2 --one-way")(cut)
    verb(group, "loss", "lab loss s1 20")(loss)
    verb(group, "reboot", "lab reboot s1 --new-address")(reboot)
    verb(group, "roam", "lab roam h1 s2")(roam)
    verb(group, "heal", "lab heal")(heal)
    app.add_typer(group, name="lab")


def demo(
    call: Call,
    once: Annotated[bool, typer.Option("--once", help="Take the lab down at the end.")] = False,
    lab: LabID = "demo",
) -> None:
    """Machines behind NATs find each other, on this machine, before your eyes. Needs root.

    On a terminal, and without --once, it ends in the terminal interface of one of them."""
    from rich.console import Console

    from shadowmesh.lab.demo import DemoOptions
    from shadowmesh.lab.demo import run as show

    console = Console(stderr=call.json, quiet=call.quiet, no_color=not call.color)

    def look(world: World) -> None:
        from shadowmesh_tui.app import run as interface

        console.print("\nnow as h3 sees it: its terminal interface opens, q leaves it", style="bold")
        time.sleep(_READ_S)
        interface(world.lab.host("h3").state_directory, color=call.color)

    watched = not (once or call.json or call.quiet) and all(s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr))
    result = show(DemoOptions(once=once, lab_id=lab, look=look if watched else None), console)
    call.done("demo/1", result)
    raise typer.Exit(0 if result.ok else 1)


def up(
    call: Call,
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            help="A site's NAT type; repeats. Without it, those of the demo.",
            autocompletion=suggest.nat_type,
        ),
    ] = None,
    relays: Annotated[int, typer.Option("--relays", help="Public hosts for relays.")] = 1,
    controllers: Annotated[int, typer.Option("--controllers", help="Public hosts for controllers.")] = 1,
    hosts: Annotated[int, typer.Option("--hosts", min=1, help="Hosts at each site.")] = 1,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="IPv6 on the sites' LANs, too.")] = False,
    lab: LabID = "lab",
) -> None:
    """Bring a lab up."""
    from shadowmesh.lab import verbs

    made = verbs.up(site or (), relays=relays, controllers=controllers, hosts=hosts, ipv6=ipv6, lab_id=lab)
    call.done("lab/1", made, lambda: _lab_text(made))


def _lab_text(lab: dict[str, Any]) -> str:
    sites = table(
        ("SITE", "NAT", "PUBLIC", "LAN", "HOSTS"),
        ([s["name"], s["nat"], s["public_address"], s["lan"], " ".join(s["hosts"])] for s in lab["sites"]),
    )
    hosts = table(
        ("HOST", "SITE", "ADDRESS", "NAMESPACE", "STATE DIR"),
        ([h["name"], h["site"], h["address"], h["namespace"], h["state_dir"]] for h in lab["hosts"]),
    )
    return f"{sites}\n\n{hosts}"


def execute(
    call: Call,
    host: Host,
    command: Annotated[list[str], typer.Argument(help="-- COMMAND …", metavar="COMMAND")],
    lab: LabID = "lab",
) -> None:
    """Run a program on a host of the lab: `lab exec h1 -- ping 10.77.0.2`."""
    from shadowmesh.lab import verbs

    sys.stdout.flush()
    try:
        raise typer.Exit(verbs.execute(host, command, lab_id=lab))
    except ShadowMeshError as error:
        if error.code not in _SHELL_CODES:
            raise
        fail(error, as_json=call.json, exit_code=_SHELL_CODES[error.code])


def status(call: Call, lab: LabID = "lab") -> None:
    """Sites, hosts, addresses, state directories, faults."""
    from shadowmesh.lab import verbs

    found = verbs.status(lab_id=lab)
    call.done("lab/1", found, lambda: _lab_text(found))


def down(
    call: Call,
    everything: Annotated[bool, typer.Option("--all", help="All labs on this machine.")] = False,
    lab: LabID = "lab",
) -> None:
    """Take a lab down; nothing remains."""
    from shadowmesh.lab import verbs

    gone = verbs.down(lab_id=lab, everything=everything)
    call.done("lab-down/1", gone, f"removed {len(gone['removed'])} namespaces and what ran in them")


def nat(
    call: Call,
    site: Site,
    kind: Annotated[str, typer.Argument(help="The NAT type.", metavar="TYPE", autocompletion=suggest.nat_type)],
    lab: LabID = "lab",
) -> None:
    """Give a site another NAT."""
    from shadowmesh.lab import verbs

    changed = verbs.nat(site, kind, lab_id=lab)
    call.done("lab-site/1", changed, f"{site}: {changed['nat']}")


def cut(
    call: Call,
    a: Annotated[str, typer.Argument(help="A host.", metavar="A", autocompletion=suggest.host)],
    b: Annotated[str, typer.Argument(help="Another.", metavar="B", autocompletion=suggest.host)],
    one_way: Annotated[bool, typer.Option("--one-way", help="Only from A to B.")] = False,
    lab: LabID = "lab",
) -> None:
    """Drop everything between two hosts' outer addresses."""
    from shadowmesh.lab import verbs

    call.done("lab-faults/1", verbs.cut(a, b, one_way=one_way, lab_id=lab), f"cut between {a} and {b}")


def loss(
    call: Call,
    site: Site,
    percent: Annotated[float, typer.Argument(help="0 to 100.", metavar="PCT")],
    lab: LabID = "lab",
) -> None:
    """Lose a part of a site's packets, each way."""
    from shadowmesh.lab import verbs

    call.done("lab-faults/1", verbs.loss(site, percent, lab_id=lab), f"{site}: {percent:g} % loss")


def reboot(
    call: Call,
    site: Site,
    new_address: Annotated[bool, typer.Option("--new-address", help="With another public address.")] = False,
    lab: LabID = "lab",
) -> None:
    """Restart a site's router: all its mappings are gone."""
    from shadowmesh.lab import verbs

    changed = verbs.reboot(site, new_address=new_address, lab_id=lab)
    call.done("lab-site/1", changed, f"{site}: restarted, public address {changed['public_address']}")


def roam(call: Call, host: Host, site: Site, lab: LabID = "lab") -> None:
    """Move a host to another site."""
    from shadowmesh.lab import verbs

    moved = verbs.roam(host, site, lab_id=lab)
    call.done("lab-host/1", moved, f"{host}: at {site} with {moved['address']}")


def heal(call: Call, lab: LabID = "lab") -> None:
    """End all faults."""
    from shadowmesh.lab import verbs

    call.done("lab-faults/1", verbs.heal(lab_id=lab), "all faults ended")
