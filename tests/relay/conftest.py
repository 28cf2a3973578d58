"""A relay without a network, and a certificate for one with."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from relay_certificate import self_signed
from relay_world import PUMPS, World

from shadowmesh.dataplane.pumps import PumpName


@pytest.fixture(params=PUMPS)
def pump(request: pytest.FixtureRequest) -> PumpName:
    """Who forwards: what holds for one holds for the other."""
    name: PumpName = request.param
    return name


@pytest.fixture
def world(pump: str) -> World:
    return World(pump=pump)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    return self_signed(ec.generate_private_key(ec.SECP256R1()), tmp_path_factory.mktemp("certificate"))
