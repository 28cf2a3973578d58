"""Makes a controller in an empty directory, or a further node of one."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import errno
import json
import re
import secrets
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from shadowmesh.config.controllerconfig import ControllerConfig
from shadowmesh.config.resolving import Resolved
from shadowmesh.config.roles import require_secrets, resolve_controller
from shadowmesh.controller import pki
from shadowmesh.controller.configured import database_of, public_urls_here
from shadowmesh.controller.keyring import KeyRing
from shadowmesh.controller.settings import (
    DATABASE_PASSWORD_NAME,
    DEFAULT_PORT,
    DataDir,
    Settings,
    Timing,
    check_public_url,
    parse_listen,
    private_files,
    write_settings,
)
from shadowmesh.controller.store import schema
from shadowmesh.controller.store.database import StorageFailed, database_url, open_store, without_password
from shadowmesh.controller.store.migrate import migrate
from shadowmesh.model.clock import utc_now
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh.model.keys import Secret
from shadowmesh.model.text import canonical_email
from shadowmesh.model.userpasswords import generated_password
from shadowmesh.serving.files import write_private

DEFAULT_ADMIN = "admin@localhost"
_FILES = ("keys", "ca.key", "ca.pem", "server.pem", "controller.db", "controller.json")  # the last one makes it whole
_EMAIL = re.compile(r"\s*[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,255}\s*\Z")
_SECRETS = "shadowmesh.controller-secrets/1"


@dataclass(frozen=True, slots=True)
class InitOptions:
    data_dir: Path
    public_urls: tuple[str, ...]
    listen: str | None = None  # None: all IPv4 addresses, at the first public URL's port
    database_url: str | None = None
    admin_email: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    admin_password: Secret | None = None  # good until the first sign-in; None: one is made
    database_password: Secret | None = None  # for a URL that has none; kept nowhere
    join_secrets: Path | None = None  # of `export_secrets`: a further node of the same controller


@dataclass(frozen=True, slots=True)
class InitResult:
    """Empty `admin_password` and `api_key`: a further node, whose controller has its administrators."""

    admin_email: str
    admin_password: str = field(repr=False)
    api_key: str = field(repr=False)
    fingerprint: str
    public_urls: tuple[str, ...]


def init(options: InitOptions) -> InitResult:
    """Makes a controller in an empty or new directory.

    Raises ShadowMeshError: already_initialized (CONFLICT), bad_public_url, bad_listen, bad_certificate, no_database (USAGE), and
    what the database raises. What fails leaves nothing behind.
    """
    with private_files():
        return _init(options)


def _init(options: InitOptions) -> InitResult:
    settings = _settings(options)
    where = DataDir(options.data_dir)
    _check_empty(where)
    bundle = None if options.join_secrets is None else _read_secrets(options.join_secrets)
    if bundle is not None and options.database_url is None:  # one of its own would make two controllers of one identity
        raise ShadowMeshError(
            "no_database",
            "a further node uses the database of the first one, and none is named",
            "give --database-url; `shadowmesh controller migrate` moves a SQLite database to PostgreSQL",
            kind=Kind.USAGE,
        )
    keys = KeyRing.generate() if bundle is None else bundle.keys
    try:
        where.path.mkdir(parents=True, exist_ok=True)
        if not any(where.path.iterdir()):  # a directory that holds other things keeps its permissions
            where.path.chmod(0o700)
        for left in where.path.glob(".init-*"):
            shutil.rmtree(left)
        staging = DataDir(where.path / f".init-{secrets.token_hex(4)}")
        staging.path.mkdir(0o700)
    except OSError as e:
        raise _cannot_write(where.path, e) from e
    try:
        if bundle is not None:
            for name, text in bundle.files.items():
                write_private(staging.path / name, text.encode())
        else:
            pki.make_authority(staging.path, keys.identity.public.fingerprint, utc_now())
        keys.save(staging.keys)
        if settings.tls_cert is None:
            pki.make_server_certificate(staging.path, settings, utc_now())
        pki.server_context(staging.path, settings)  # what can't be served is found now
        result = _fill_database(options, settings, keys, staging)
        if settings.database_url is not None:  # what is shown and copied around holds no secret
            shown, password = without_password(settings.database_url)
            settings = replace(settings, database_url=shown)
            if password is not None:
                write_private(staging.keys / DATABASE_PASSWORD_NAME, password.encode() + b"\n")
        write_settings(staging.config, settings)
        for name in _FILES:
            if (staging.path / name).exists():
                (staging.path / name).rename(where.path / name)
    except OSError as e:
        raise _cannot_write(where.path, e) from e
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)
    return result


def _cannot_write(path: Path, error: OSError) -> ShadowMeshError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ShadowMeshError(
        "disk_full" if full else "cannot_write",
        f"{path} can't be written ({error.strerror})",
        "free some space" if full else "choose another --data-dir, or run as a user who may",
        kind=Kind.NOT_ALLOWED if isinstance(error, PermissionError) else Kind.FAILED,
    )


def _settings(options: InitOptions) -> Settings:
    if not options.public_urls:
        raise ShadowMeshError("bad_public_url", "a public URL is missing", "give --public-url", kind=Kind.USAGE)
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ShadowMeshError(
            "bad_certificate", "a certificate and its key go together", "give --tls-cert and --tls-key", kind=Kind.USAGE
        )
    if not _EMAIL.match(options.admin_email or DEFAULT_ADMIN):
        raise ShadowMeshError(
            "bad_email", f"{options.admin_email!r} is not an e-mail address", "write it as NAME@HOST", kind=Kind.USAGE
        )
    urls = tuple(dict.fromkeys(check_public_url(url) for url in options.public_urls))
    port = urls[0].rpartition(":")[2]
    listen = options.listen or (port if port.isdigit() else str(DEFAULT_PORT))
    return Settings(
        public_urls=urls,
        listen=str(parse_listen(listen)),
        database_url=options.database_url,
        tls_cert=None if options.tls_cert is None else str(options.tls_cert.absolute()),
        tls_key=None if options.tls_key is None else str(options.tls_key.absolute()),
    )


def _check_empty(where: DataDir) -> None:
    try:
        found = [name for name in _FILES if (where.path / name).exists()]
    except OSError:
        return  # what can't be looked at can't be written either, and says so
    if where.config.exists():
        raise ShadowMeshError(
            "already_initialized",
            f"there is a controller in {where.path} already; it was left as it is",
            "start it with `shadowmesh controller run`, or choose another --data-dir",
            kind=Kind.CONFLICT,
        )
    if found:
        raise ShadowMeshError(
            "not_empty",
            f"{where.path} holds parts of a controller ({', '.join(found)}); they were left as they are",
            "move them away, or choose another --data-dir",
            kind=Kind.CONFLICT,
        )


def _fill_database(options: InitOptions, settings: Settings, keys: KeyRing, staging: DataDir) -> InitResult:
    from shadowmesh.controller.authz import SYSTEM
    from shadowmesh.controller.service.api_keys import add_key
    from shadowmesh.controller.service.audit_log import record
    from shadowmesh.controller.service.configuration import note_settings
    from shadowmesh.controller.service.context import ServiceContext
    from shadowmesh.controller.service.passwords import hash_password
    from shadowmesh.controller.service.users import add_user
    from shadowmesh.model.accounts import ApiKeyCreate

    password = None if options.database_password is None else options.database_password.reveal().decode()
    url = database_url(settings.database_url, staging.database, password)
    store = open_store(url)
    context = ServiceContext(store, keys, settings, Timing(), utc_now)
    email = canonical_email((options.admin_email or DEFAULT_ADMIN).strip())
    fingerprint = keys.identity.public.fingerprint

    def tx(conn: Connection) -> tuple[str, str]:
        owner = conn.execute(sa.select(schema.meta.c.value).where(schema.meta.c.key == "fingerprint")).scalar()
        if owner is not None:
            if owner != fingerprint or options.join_secrets is None:
                raise ShadowMeshError(
                    "database_in_use",
                    "this database is another controller's; it was left as it is",
                    "choose an empty one, or join it with --join-secrets",
                    kind=Kind.CONFLICT,
                )
            return "", ""
        conn.execute(schema.meta.insert().values(key="fingerprint", value=fingerprint))
        record(context, conn, SYSTEM, "controller.init", fingerprint)
        note_settings(context, conn)
        password = options.admin_password.reveal().decode() if options.admin_password else generated_password()
        stored = hash_password(password)
        user_id = add_user(context, conn, SYSTEM, email, admin=True, password_hash=stored, must_change=True)
        _, api_key = add_key(context, conn, SYSTEM, user_id, ApiKeyCreate(name="first"))
        return password, api_key

    try:
        migrate(store.engine)
        with store.engine.begin() as conn:
            password, api_key = tx(conn)
    except sa.exc.DBAPIError as e:
        raise StorageFailed(e) from e
    finally:
        store.close()
    return InitResult(email if password else "", password, api_key, fingerprint, settings.public_urls)


def options_configured(file: Path, over: InitOptions, data_dir: Path | None) -> InitOptions:
    """What a configuration's file says, below what `over` says. Raises ShadowMeshError as `resolve_controller` and
    `require_secrets` do."""
    found = resolve_controller(file)
    require_secrets(found)
    base = _configured(found, data_dir or found.config.controller.data_dir)
    said = {f.name: value for f in fields(over) if f.name != "data_dir" and (value := getattr(over, f.name))}
    return dataclasses.replace(base, **said)


def _configured(found: Resolved[ControllerConfig], data_dir: Path) -> InitOptions:
    config, address = found.config, found.config.controller
    return InitOptions(
        data_dir=data_dir,
        public_urls=address.public_urls or public_urls_here(address.listen_address),
        listen=address.listen_address,
        database_url=database_of(found),
        admin_email=address.admin_email,
        admin_password=address.admin_password,
        database_password=config.database.password,
        tls_cert=address.tls.cert_file,
        tls_key=address.tls.key_file,
    )


FIRST_ADMINISTRATOR = "first-administrator"


def init_configured(found: Resolved[ControllerConfig], where: DataDir) -> Path | None:
    """Makes the controller that a configuration describes. Returns the file that has the first administrator's password, if it
    was made here; None if it was given. Raises ShadowMeshError as `init` does."""
    options = _configured(found, where.path)
    result = init(options)
    if options.admin_password is not None or not result.admin_password:
        return None
    path = where.path / FIRST_ADMINISTRATOR
    write_private(path, f"{result.admin_email}\n{result.admin_password}\n".encode())
    return path


# a further node of the same controller


def export_secrets(data_dir: Path) -> bytes:
    """All that another node needs: whoever has it is the controller. JSON, for `--join-secrets`.

    Raises ShadowMeshError: as `DataDir.read` and `KeyRing.load` do.
    """
    DataDir(data_dir).read()
    keys = KeyRing.load(DataDir(data_dir).keys)
    files = {name: (data_dir / name).read_text() for name in ("ca.key", "ca.pem")}
    plain = {name: base64.b64encode(secret.reveal()).decode() for name, secret in keys.secrets().items()}
    return json.dumps({"schema": _SECRETS, "keys": plain, "files": files}).encode()


@dataclass(frozen=True, slots=True)
class _Bundle:
    """`files`: texts of the data directory, by name."""

    keys: KeyRing
    files: dict[str, str] = field(repr=False)


def _read_secrets(path: Path) -> _Bundle:
    """Raises ShadowMeshError(bad_secrets)."""
    try:
        bundle = json.loads(path.read_bytes())
        if bundle["schema"] != _SECRETS:
            raise ValueError(bundle["schema"])
        keys = KeyRing.of({name: Secret(base64.b64decode(text)) for name, text in bundle["keys"].items()})
        return _Bundle(keys, {name: str(bundle["files"][name]) for name in ("ca.key", "ca.pem")})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as e:
        raise ShadowMeshError(
            "bad_secrets",
            f"{path} holds no secrets of a controller",
            "make it with `shadowmesh controller secrets export`",
            kind=Kind.USAGE,
        ) from e


def identity(data_dir: Path) -> tuple[str, Settings]:
    """The fingerprint and the settings of the controller in a directory. Raises as `DataDir.read` and `KeyRing.load` do."""
    where = DataDir(data_dir)
    settings = where.read()
    return KeyRing.load(where.keys).identity.public.fingerprint, settings


def set_urls(data_dir: Path, urls: tuple[str, ...]) -> Settings:
    """Gives a controller other public URLs from its next start on; machines follow, those of before stay announced for 30 days.

    Raises ShadowMeshError: bad_public_url, not_initialized, and what writing raises.
    """
    where = DataDir(data_dir)
    checked = tuple(dict.fromkeys(check_public_url(url) for url in urls))
    if not checked:
        raise ShadowMeshError("bad_public_url", "a public URL is missing", "give one at least", kind=Kind.USAGE)
    settings = where.read().moved_to(checked, utc_now().timestamp())
    try:
        write_settings(where.config, settings)
    except OSError as e:
        raise _cannot_write(where.path, e) from e
    return settings
