"""Draws the README's pictures from a real run: the demo's table, the dashboard and the topology. Needs root.

.venv/bin/python docs/make_pictures.py
"""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path

from rich.console import Console

from shadowmesh.lab import demo, internet
from shadowmesh.lab.internet import Lab
from shadowmesh_tui.app import ShadowMeshApp

IMAGES = Path(__file__).parent / "images"
LAB = "pictures"
SIZE = (110, 30)
SETTLE = 20.0  # seconds after which the pairs that can't meet say so


def save(name: str, svg: str) -> None:
    """Without the web fonts that Rich refers to, and without its random ids."""
    svg = re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL)
    (IMAGES / f"{name}.svg").write_text(re.sub(r"terminal-\d+", "terminal", svg), encoding="utf-8")


async def tui(state_dir: Path) -> None:
    app = ShadowMeshApp(state_dir)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(SETTLE)
        save("tui-dashboard", app.export_screenshot())
        await pilot.press("t")
        await pilot.pause(3.0)
        save("tui-topology", app.export_screenshot())


def main() -> None:
    try:
        result = demo.run(demo.DemoOptions(lab_id=LAB), Console(width=84))
        drawn = Console(record=True, width=84, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        drawn.print("$ make demo", style="bold")
        drawn.print(demo.table(result.pairs))
        save("demo", drawn.export_svg(title="make demo"))
        asyncio.run(tui(Lab.attach(LAB).host("h3").state_directory))
    finally:
        internet.down(LAB)


if __name__ == "__main__":
    main()
