"""What a relay keeps on disk, all of it: its own key, who its controller is, the keys of tokens, the revocations.

`DATA_DIR/relay.key` (0600): the Ed25519 seed in hex. `DATA_DIR/metrics.token` (0600): what opens `/metrics`. `DATA_DIR/usage.json` (0600): what clients used and the controller doesn't know yet. `DATA_DIR/relay.json` (0600): the rest, replaced as a whole. The
directory is 0700 if it is made here. A lock file holds out a second relay.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Self

from shadowmesh.client_api.clientcertificate import new_key
from shadowmesh.model.codec import Struct, from_json, to_json
from shadowmesh.model.errors import Kind, MalformedError, ShadowMeshError
from shadowmesh.model.ids import RelayID
from shadowmesh.model.keys import NetworkID, Secret, SigningPublicKey
from shadowmesh.model.relaylink import Revocation
from shadowmesh.protocol.signing import IdentityDocument, Signer
from shadowmesh.relay.usageledger import LedgerState
from shadowmesh.serving.files import write_private

FORMAT = 1


class RelayState(Struct, frozen=True, kw_only=True):
    """`identity`: the controller's document, as of the last contact; an older one with other keys is not taken any more.
    `wall_offset`: its clock minus ours. `relay_id` is None before registering."""

    format: int = FORMAT
    relay_id: RelayID | None = None
    name: str = ""
    fingerprint: str | None = None
    identity: IdentityDocument | None = None
    controller_urls: tuple[str, ...] = ()
    token_keys: tuple[SigningPublicKey, ...] = ()
    wall_offset: float = 0.0
    revocations: tuple[Revocation, ...] = ()
    serves: tuple[NetworkID, ...] | None = None  # the networks that it is for; None: all


def is_registered(data_dir: Path) -> bool:
    """Whether the relay of this directory has registered with a controller, as far as can be read."""
    try:
        return from_json((data_dir / "relay.json").read_bytes(), RelayState).relay_id is not None
    except (OSError, MalformedError):
        return False


class RelayStore:
    """The directory. `with RelayStore(dir) as store:` makes and locks it.

    Raises ShadowMeshError: `relay_running` (CONFLICT), `state_unreadable`, `state_unwritable`, `state_newer`.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise self._unwritable(e) from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(self._lock)
            raise ShadowMeshError(
                "relay_running",
                f"a relay already runs from {self._dir}",
                "stop it, or give another --data-dir",
                kind=Kind.CONFLICT,
            ) from e
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._lock)

    def signer(self) -> Signer:
        """The relay's own key, made at the first call."""
        path = self._dir / "relay.key"
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            made = Signer.generate()
            self._write(path, made.secret.reveal().hex().encode() + b"\n")
            return made
        except (OSError, UnicodeDecodeError) as e:
            raise self._unreadable(path, e) from e
        try:
            return Signer.from_secret(Secret(bytes.fromhex(text)))
        except ValueError as e:
            raise self._unreadable(path, "it holds no key") from e

    def metrics_token(self) -> Secret:
        """What `/metrics` asks for, made at the first call: 43 characters in `DATA_DIR/metrics.token`, for Prometheus to read."""
        path = self._dir / "metrics.token"
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            text = secrets.token_urlsafe(32)
            self._write(path, text.encode())
        except (OSError, UnicodeDecodeError) as e:
            raise self._unreadable(path, e) from e
        if not text:
            raise self._unreadable(path, "it is empty")
        return Secret(text.encode())

    @property
    def certificate(self) -> Path:
        """`DATA_DIR/client.crt`, with which the relay is linked where it was configured so."""
        return self._dir / "client.crt"

    @property
    def certificate_key(self) -> Path:
        return self._dir / "client.key"

    def certificate_secret(self) -> Secret:
        """The certificate's private key, PEM, made at the first call."""
        try:
            return Secret(self.certificate_key.read_bytes())
        except FileNotFoundError:
            made = new_key()
            self._write(self.certificate_key, made.reveal())
            return made
        except OSError as e:
            raise self._unreadable(self.certificate_key, e) from e

    def keep_certificate(self, pem: str) -> None:
        self._write(self.certificate, pem.encode())

    def load(self) -> RelayState:
        path = self._dir / "relay.json"
        try:
            state = from_json(path.read_bytes(), RelayState)
        except FileNotFoundError:
            return RelayState()
        except (OSError, MalformedError) as e:
            raise self._unreadable(path, e) from e
        if state.format > FORMAT:
            raise ShadowMeshError(
                "state_newer",
                f"{path} was written by a newer version (format {state.format}, this one knows {FORMAT})",
                "run the newer version, or register anew with an empty --data-dir",
            )
        return state

    def usage(self) -> LedgerState | None:
        """What clients used and the controller doesn't have yet. One that can't be read is none: serving is worth more."""
        try:
            return from_json((self._dir / "usage.json").read_bytes(), LedgerState)
        except (OSError, MalformedError):
            return None

    def save_usage(self, state: LedgerState) -> None:
        self._write(self._dir / "usage.json", to_json(state))

    def save(self, state: RelayState) -> None:
        self._write(self._dir / "relay.json", to_json(state))

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_private(path, content)
        except OSError as e:
            raise self._unwritable(e) from e

    def _unwritable(self, error: OSError) -> ShadowMeshError:
        return ShadowMeshError(
            "state_unwritable",
            f"the relay can't write to {self._dir} ({error.strerror or error})",
            "give it a directory of its own with --data-dir, and room on the disk",
            kind=Kind.NOT_ALLOWED if isinstance(error, PermissionError) else Kind.FAILED,
        )

    @staticmethod
    def _unreadable(path: Path, why: object) -> ShadowMeshError:
        return ShadowMeshError(
            "state_unreadable",
            f"{path} can't be read ({why})",
            "restore it, or register anew with an empty --data-dir",
        )
