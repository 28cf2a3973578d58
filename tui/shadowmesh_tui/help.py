"""The help screen: what the keys do and what the marks mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from shadowmesh_tui.palette import Palette
from shadowmesh_tui.text import PATH_GLYPH

_KEYS = (
    ("d  t", "dashboard, topology"),
    ("↑ ↓  j k", "choose a peer (in the topology also ← →)"),
    ("g  G", "the first, the last (Home, End)"),
    ("Enter", "all about the chosen peer: figures, what was tried, history"),
    ("p", "ping the chosen peer"),
    ("n  N", "next network, the one before"),
    ("/", "show only peers that contain these words; Esc shows all"),
    ("s  S", "order by the next column, the other way round (or click a heading)"),
    ("u  D", "switch the chosen network on, off"),
    ("w", "the daemon's warnings"),
    ("c  C", "a controller: its networks and clients; which one"),
    ("Ctrl+P", "all commands, and the choice of colours"),
    ("q", "quit"),
)


def keys_text(keys: Sequence[tuple[str, str]], styles: Palette) -> Text:
    """A line for each key, and what it does."""
    width, text = max(len(key) for key, _ in keys) + 2, Text()
    for key, meaning in keys:
        text.append(f"{key:<{width}}", style=styles["me"]).append(f"{meaning}\n", style=styles["label"])
    return text


def help_text(styles: Palette) -> Text:
    text = keys_text(_KEYS, styles)
    text.append("\n")
    for mark, style, meaning in (
        (PATH_GLYPH["direct"], "direct", "direct: packets go straight to the peer (solid line)"),
        (PATH_GLYPH["relay"], "relay", "through a relay, which can't read them (dashed line)"),
        (PATH_GLYPH["none"], "none", "no path now (○ in the topology)"),
    ):
        text.append(f"{mark:<10}", style=styles[style]).append(f"{meaning}\n", style=styles["label"])
    text.append(f"{'on':<10}", style=styles["me"])
    text.append("whether the peer was seen in the last 30 s; ? without the controller\n", style=styles["label"])
    text.append(f"{'hs':<10}", style=styles["me"]).append("time since the last handshake\n", style=styles["label"])
    text.append("\nWhat a reason means: ", style=styles["muted"])
    return text.append("shadowmesh help reason CODE", style=styles["label"])
