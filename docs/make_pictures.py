"""Draws the README's pictures from a real run: the demo's table, the dashboard and the topology. Needs root.

.venv/bin/python docs/make_pictures.py
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from rich.console import Console

from shadowmesh.lab import demo, internet
from shadowmesh.lab.internet import Lab
from shadowmesh_tui.app import ShadowMeshApp

IMAGES = Path(__file__).parent / "images"
LAB = "pictures"
SIZE = (110, 30)
SETTLE = 20.0  # seconds after which the pairs that can't meet say so


async def tui(state_dir: Path) -> None:
    app = ShadowMeshApp(state_dir)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(SETTLE)
        app.save_screenshot("tui-dashboard.svg", str(IMAGES))
        await pilot.press("t")
        await pilot.pause(3.0)
        app.save_screenshot("tui-topology.svg", str(IMAGES))


def main() -> None:
    try:
        result = demo.run(demo.DemoOptions(lab_id=LAB), Console(width=84))
        drawn = Console(record=True, width=84, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        drawn.print("$ make demo", style="bold")
        drawn.print(demo.table(result.pairs))
        drawn.save_svg(str(IMAGES / "demo.svg"), title="make demo")
        asyncio.run(tui(Lab.attach(LAB).host("h3").state_directory))
    finally:
        internet.down(LAB)


if __name__ == "__main__":
    main()
