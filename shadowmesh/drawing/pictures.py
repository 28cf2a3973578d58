"""The picture as a file, by how its name ends."""

from __future__ import annotations

from shadowmesh.drawing.layout import lay_out
from shadowmesh.model.connectivity import Topology

ENDS = (".svg", ".png", ".dot")


def picture(found: Topology, end: str) -> tuple[bytes, int, int]:
    """What stands in a file whose name ends so (one of ENDS); how many nodes and links are in it."""
    layout = lay_out(found)
    if end == ".png":
        from shadowmesh.drawing.png import png  # it loads what it draws with, and a font

        data = png(layout)
    elif end == ".svg":
        from shadowmesh.drawing.svg import svg

        data = svg(layout).encode()
    else:
        from shadowmesh.drawing.dot import dot

        data = dot(found).encode() + b"\n"
    return data, len(layout.nodes), len(layout.links)
