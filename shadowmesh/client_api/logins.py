"""What `shadowmesh login` keeps for later commands: one file, readable by its user only, changed under a lock. Beside it, in another
such file, the further controllers that the terminal interface is signed in to.

Commands run at the same time. A refresh token is good once, so who finds its access token over takes the lock, looks whether
another command has renewed it meanwhile, and only else renews it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.serving.files import write_private

_LOCK_WAIT = 30.0  # a request that renews takes so long at most
_LOCK_POLL = 0.05
_MOST_DEVICES = 50
_MOST_LOGINS = 50
_Tokens = TypeAdapter(dict[str, str])


class SavedLogin(BaseModel):
    """A controller, what to sign in to it with, and its identity document as JSON: TLS is verified by that."""

    url: str
    token: str  # an API key, or an access token
    refresh_token: str | None = None
    identity: str


_Logins = TypeAdapter(dict[str, SavedLogin])


def login_path() -> Path:
    """Where it is: `$XDG_CONFIG_HOME/shadowmesh/login.json`."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "shadowmesh" / "login.json"


def _further_path() -> Path:
    return login_path().with_name("logins.json")


def load() -> SavedLogin:
    """What is kept. Raises ShadowMeshError(unreadable_login)."""
    path = login_path()
    try:
        return SavedLogin.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as e:
        raise unreadable() from e


def unreadable() -> ShadowMeshError:
    return ShadowMeshError("unreadable_login", f"{login_path()} can't be read", "sign in again", kind=Kind.NOT_ALLOWED)


def _further() -> dict[str, SavedLogin]:
    """By URL, the newest last. What can't be read is as if nobody were signed in there."""
    with suppress(OSError, ValidationError):
        return _Logins.validate_json(_further_path().read_bytes())
    return {}


def known() -> list[SavedLogin]:
    """Of each controller that somebody is signed in to here; the one that commands use comes first."""
    found: dict[str, SavedLogin] = {}
    with suppress(ShadowMeshError):
        current = load()
        found[current.url] = current
    return list((found | {url: login for url, login in _further().items() if url not in found}).values())


def find(url: str) -> SavedLogin | None:
    """The login to this controller."""
    return next((login for login in known() if login.url == url), None)


@contextmanager
def locked() -> Iterator[None]:
    """One command at a time inside. Raises ShadowMeshError(login_not_kept).

    Who holds it for longer than a request may take is stopped, and no longer waited for: the controller answers the same
    refresh token with the same successor for a while.
    """
    path = login_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise _not_kept(e) from e
    try:
        end = time.monotonic() + _LOCK_WAIT
        while not _taken(descriptor) and time.monotonic() < end:
            time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def keep(login: SavedLogin) -> None:
    """Replaces what is kept for commands, whole or not at all. Call with the lock. Raises ShadowMeshError(login_not_kept)."""
    _replace(login_path(), login.model_dump_json())
    if login.url in (others := _further()):
        del others[login.url]
        _keep_further(others)


def keep_beside(login: SavedLogin) -> None:
    """Keeps it and leaves that of commands as it is, unless it is of the same controller, or there is none. Call with the lock.
    Raises ShadowMeshError(login_not_kept)."""
    try:
        current: SavedLogin | None = load()
    except ShadowMeshError:
        current = None
    if current is None or current.url == login.url:
        keep(login)
    else:
        others = _further()
        others.pop(login.url, None)
        _keep_further(dict([*others.items(), (login.url, login)][-_MOST_LOGINS:]))


def _keep_further(logins: dict[str, SavedLogin]) -> None:
    _replace(_further_path(), _Logins.dump_json(logins).decode())


def _replace(path: Path, text: str) -> None:
    try:
        write_private(path, text.encode())
    except OSError as e:
        raise _not_kept(e) from e


def forget(url: str | None = None) -> None:
    """The login of commands, or that to this controller. Call with the lock. Raises ShadowMeshError(login_not_kept)."""
    if url is not None and url in (others := _further()):
        del others[url]
        _keep_further(others)
    if url is not None and find(url) is None:
        return
    try:
        login_path().unlink(missing_ok=True)
    except OSError as e:
        raise _not_kept(e) from e


def _devices_path() -> Path:
    return login_path().with_name("devices.json")


def _devices() -> dict[str, str]:
    with suppress(OSError, ValidationError):
        return _Tokens.validate_json(_devices_path().read_bytes())
    return {}


def device_token(who: str) -> str | None:
    """What this user's last login here gave: it keeps strangers' guesses from keeping him out. `who`: controller and user."""
    return _devices().get(who)


def keep_device_token(who: str, token: str) -> None:
    """Outlives signing out. Call with the lock. Raises ShadowMeshError(login_not_kept)."""
    known = _devices()
    known.pop(who, None)
    newest = dict([*known.items(), (who, token)][-_MOST_DEVICES:])
    _replace(_devices_path(), json.dumps(newest))


def _not_kept(error: OSError) -> ShadowMeshError:
    return ShadowMeshError(
        "login_not_kept",
        f"{login_path().parent} can't be written ({error.strerror or error})",
        "make room there, or name another place with XDG_CONFIG_HOME",
        kind=Kind.NOT_ALLOWED if isinstance(error, PermissionError) else Kind.FAILED,
    )
