"""What the daemon's tests share: a membership to keep, and where to keep it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cheaper import cheap_passwords, statements_compiled_once  # noqa: F401 - fixtures

from shadowmesh.daemon.state import ControllerRecord, NetworkRecord, NetworkSecrets
from shadowmesh.model.ids import ClientID, NetworkRef
from shadowmesh.model.keys import NetworkID, Secret
from shadowmesh.protocol.noise import generate_private_key
from shadowmesh.protocol.sealing import generate_sealing_keys
from shadowmesh.protocol.signing import IdentityDocument, Signer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if os.geteuid() and Path(__file__).parent in item.path.parents and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def membership(name: str = "office", number: int = 1) -> tuple[NetworkRecord, NetworkSecrets]:
    """A network's record and keys, as enrolment leaves them."""
    signer = Signer.generate()
    identity = IdentityDocument(
        identity=signer.public, ca_pem="", signing_keys=(signer.public,), urls=("https://192.0.2.1:8443",),
        stun_ports=(8443, 8444), issued=0.0,
    )  # fmt: skip
    record = NetworkRecord(
        network_id=NetworkID.of(Secret(bytes([number]) * 32)),
        ref=NetworkRef(f"net_{name}"),
        name=name,
        client_id=ClientID(f"cli_{number}"),
        ip=f"10.{number}.0.1",
        controller=ControllerRecord(fingerprint=signer.public.fingerprint, identity=identity),
    )
    return record, NetworkSecrets(generate_private_key(), *generate_sealing_keys())


@pytest.fixture
def joined() -> tuple[NetworkRecord, NetworkSecrets]:
    return membership()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may pass (pytest's own are private)."""
    path = Path("/tmp") / f"sm-daemon-{os.getpid()}-{os.urandom(3).hex()}"
    path.mkdir(mode=0o711)
    yield path
    shutil.rmtree(path)
