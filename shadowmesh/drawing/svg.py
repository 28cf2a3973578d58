"""The picture as SVG: text, one element a node and a link (classes `node` and `link`), and what each is as its tooltip."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape, quoteattr

from shadowmesh.drawing.layout import DrawnLink, DrawnNode, Layout, legend
from shadowmesh.drawing.words import KINDS, name_of

DASHES = {"p2p": "", "relay": "7 5", "hybrid": "12 4 2 4", "home": "1 4"}
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #0f172a }
.detail { font-size: 11px; fill: #64748b } .title { font-size: 18px; font-weight: 600 }
.node rect, .node circle, .node polygon { fill: #fff; stroke: #334155; stroke-width: 1.5 }
.offline rect, .offline circle, .offline polygon { stroke-dasharray: 3 3; fill: #f1f5f9 } .offline text { fill: #94a3b8 }
.controller rect { fill: #e0e7ff } .relay polygon { fill: #fef3c7 } .link { fill: none }
"""


def svg(layout: Layout, *, nonce: str | None = None) -> str:
    """`nonce`: of the page that it stands in, whose policy wants one of every style sheet."""
    size = (
        f'width="{layout.width:.0f}" height="{layout.height:.0f}" viewBox="0 0 {layout.width:.0f} {layout.height:.0f}"'
    )
    said = "" if nonce is None else f" nonce={quoteattr(nonce)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(layout.title)}>',
        f"<style{said}>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="20" y="30">{escape(layout.title)}</text>',
        *map(_link, layout.links),
        *(_node(node, layout.crowded) for node in layout.nodes),
        *_legend(layout),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _link(link: DrawnLink) -> str:
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in link.points)
    dash = f' stroke-dasharray="{DASHES[link.kind]}"' if DASHES[link.kind] else ""
    ends = quoteattr(" ".join(link.ends))
    title = f"<title>{escape(link.label)}</title>" if link.label else ""
    return (
        f'<path class="link {link.kind}" data-ends={ends} d="{path}" stroke="{link.colour}"'
        f' stroke-width="{link.width:.1f}"{dash}>{title}</path>'
    )


def _node(node: DrawnNode, crowded: bool) -> str:
    x, y = node.at
    words = " ".join(filter(None, (node.name, node.detail, "" if node.online else "offline")))
    head = f'<g class="node {node.kind}{"" if node.online else " offline"}" data-id={quoteattr(node.id)}><title>{escape(words)}</title>'
    return head + _shape(node, x, y, crowded) + "</g>"


def _shape(node: DrawnNode, x: float, y: float, crowded: bool) -> str:
    if node.kind == "client" and crowded and node.angle is not None:
        turned = math.degrees(node.angle)
        left = abs(turned) > 90 and turned < 270
        anchor, away, turn = ("end", -10, turned + 180) if left else ("start", 10, turned)
        text = (
            f'<text x="{away}" y="4" text-anchor="{anchor}" transform="translate({x:.1f} {y:.1f}) rotate({turn:.1f})">'
        )
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>{text}{escape(name_of(node))}</text>'
    name, detail = escape(name_of(node)), escape(node.detail)
    if node.kind == "relay":
        shape = (
            f'<polygon points="{x:.1f},{y - 15:.1f} {x + 15:.1f},{y:.1f} {x:.1f},{y + 15:.1f} {x - 15:.1f},{y:.1f}"/>'
        )
        return shape + f'<text x="{x:.1f}" y="{y + 31:.1f}" text-anchor="middle">{name}</text>'
    wide = 220 if node.kind == "controller" else 112
    shape = f'<rect x="{x - wide / 2:.1f}" y="{y - 19:.1f}" width="{wide}" height="38" rx="6"/>'
    lines = f'<text x="{x:.1f}" y="{y - 2:.1f}" text-anchor="middle">{name}</text>'
    return shape + lines + f'<text class="detail" x="{x:.1f}" y="{y + 12:.1f}" text-anchor="middle">{detail}</text>'


def _legend(layout: Layout) -> list[str]:
    x, y, parts = 20.0, layout.height - 64, list[str]()
    for kind, words in KINDS.items():
        dash = f' stroke-dasharray="{DASHES[kind]}"' if DASHES[kind] else ""
        parts.append(f'<path d="M{x:.0f} {y:.0f} h34" stroke="#334155" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{x + 42:.0f}" y="{y + 4:.0f}">{escape(words)}</text>')
        x += 150
    x, y = 20.0, layout.height - 34
    for colour, words in legend():
        parts.append(f'<path d="M{x:.0f} {y:.0f} h34" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 42:.0f}" y="{y + 4:.0f}">{escape(words)}</text>')
        x += 120
    return parts
