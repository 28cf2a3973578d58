"""What the management verbs share: the way to the controller, durations, times."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from shadowmesh.cli.base import Call
from shadowmesh.model.errors import Kind, ShadowMeshError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from shadowmesh.client_api.rest import ControllerClient
    from shadowmesh.model import api

M = TypeVar("M", bound="BaseModel")
N = TypeVar("N", "api.Network", "api.Client", "api.Device", "api.Relay")

CONFIG_NAME = "controller.json"  # there from `controller init` on
_STARTS_S = 1.0  # that long a `controller run &` of a moment ago may need until it holds its lock

# what to do about a field that the API doesn't take
_HINTS = {
    "WebhookCreate.url": "write it as https://HOST/PATH; an administrator's may begin with http://",
    "WebhookCreate.events": "there are client_online, client_offline, client_pending, client_removed, connection_upgrade, "
    "network_changed, relay_changed, quota_warning and quota_reached",
    "SyslogCreate.url": "write it as tls://HOST:6514, tcp://HOST:601 or udp://HOST:514",
    "stream": "there is events, logs and audit",
    "UserInvite.role": "there is admin and user",
    "UserInvite.network_role": "there is owner, member and guest",
    "UserInvite.": "name both --network and --network-role",
    "ApiKeyCreate.name": "give up to 100 characters that can be seen, or none",
    "ClientPatch.name": "use a-z, 0-9 and -, at most 63",
    "name": "use letters, digits, ., _ and -, at most 63, the first a letter or digit",
    "public_key": "give 32 bytes in base64, as `wg pubkey` prints them",
    "client_name": "use a-z, 0-9 and -, at most 63",
    "email": "write it as NAME@HOST",
    "ip": "give an IPv4 address",
    "scopes": "there are network.create, .delete, .configure, .invite, .view, client.register, client.remove and logs.view",
    "mfa_required": "the roles are admin, owner, member and guest, or none",
    "permissions": "in a network there are network.delete, .configure, .invite, .view, client.register, client.remove and logs.view",
    "role": "there is owner, member and guest",
    "expires_in": "give a time up to ten years, as 30m, 24h or 7d",
    "idle": "give a time as 30m, 24h or 7d",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def connect(call: Call) -> ControllerClient:
    """The controller of --data-dir, of SHADOWMESH_CONTROLLER, or the one signed in to. One of this host that was made
    and doesn't answer yet is waited for."""
    from shadowmesh.client_api.localhttp import SOCKET_NAME
    from shadowmesh.client_api.rest import LOCK_NAME, ControllerClient
    from shadowmesh.client_api.starting import until_answers

    controller = ControllerClient.choose(data_dir=call.data_dir)
    where = controller.data_dir
    if where is not None and os.path.exists(where / CONFIG_NAME) and os.access(where, os.W_OK):  # noqa: PTH110

        def waiting() -> None:
            call.note(f"waiting for the controller in {where} to start …")

        until_answers(where / SOCKET_NAME, where / LOCK_NAME, unlocked_s=_STARTS_S, waiting=waiting)
    return controller


_SECRET = ("secret",)  # isn't shown, right or wrong


def request(kind: type[M], /, **fields: Any) -> M:
    """A request of the API from the options that were given (those that are None weren't). Raises ShadowMeshError(USAGE)."""
    from pydantic import ValidationError

    try:
        return kind(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as e:
        first = e.errors()[0]
        field = "".join(str(part) for part in first["loc"][:1])
        why = first["msg"][:1].lower() + first["msg"][1:]
        raise ShadowMeshError(
            "bad_option",
            f"the {field} isn't usable"
            if field in _SECRET
            else f"{field.replace('_', ' ')} {first['input']!r} isn't usable",
            _HINTS.get(f"{kind.__name__}.{field}")
            or _HINTS.get(field, why if first["type"] != "string_pattern_mismatch" else "see --help"),
            kind=Kind.USAGE,
        ) from e


def nothing_to_change(verb: str) -> ShadowMeshError:
    return ShadowMeshError(
        "no_change",
        "nothing to change",
        f"name what is to be changed; see `shadowmesh {verb} --help`",
        kind=Kind.USAGE,
    )


def seconds(text: str) -> int:
    """Seconds of `90s`, `30m`, `24h`, `7d` or `2w`."""
    found = re.fullmatch(r"([0-9]{1,12}) *([smhdw]?)", text.strip().lower())
    if not found or int(found[1]) == 0:
        raise ShadowMeshError(
            "bad_duration", f"{text!r} is not a duration", "write it as 90s, 30m, 24h or 7d", kind=Kind.USAGE
        )
    if not found[2]:
        raise ShadowMeshError(
            "bad_duration",
            f"{text!r} has no unit",
            f"is it seconds, minutes, hours or days: {text}s, {text}m, {text}h, {text}d?",
            kind=Kind.USAGE,
        )
    return int(found[1]) * _UNITS[found[2]]


def listed(text: str | None) -> list[str] | None:
    """What an option names, with commas between; None if it wasn't given, an empty list for `none`."""
    if text is None:
        return None
    return [] if text.strip() == "none" else [part.strip() for part in text.split(",")]


def by_name(found: Iterable[N]) -> list[N]:
    """In the order in which people look for names."""
    return sorted(found, key=lambda thing: thing.name.casefold())  # those alike stay as the controller has them


def network_names(controller: ControllerClient, ids: Iterable[str | None]) -> dict[str, str]:
    """By id, for people; nothing is asked where there is none."""
    wanted = {ref for ref in ids if ref is not None}
    return {n.network_id: n.name for n in controller.network_list()} if wanted else {}


def when(moment: datetime | None) -> str | None:
    """A time for people, UTC to the second."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
