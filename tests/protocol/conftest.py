"""Lets these tests use `fake_crypto` of the simulation and `wireguard_go_peer` from here."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "sim")]
