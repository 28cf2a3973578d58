"""What all forms of the picture say."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from shadowmesh.drawing.layout import DrawnNode

KINDS = {"p2p": "direct", "relay": "by a relay", "hybrid": "each its way", "home": "home relay"}
_CELLS = {"controller": 30, "relay": 20, "client": 16}  # of a name


def name_of(node: DrawnNode) -> str:
    """As there is room for it, in cells of a terminal, which are about as wide as in print; the cut is marked."""
    name, most = node.name, _CELLS[node.kind]
    return name if cell_len(name) <= most else set_cell_size(name, most - 1).rstrip() + "…"
