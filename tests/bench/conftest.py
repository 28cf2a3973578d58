"""Lets the tests here import the benchmark's modules by name, as `python tests/bench` does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
