"""Lets these tests use the simulation's fake ciphers: `from fake_crypto import Fake`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "sim"))
