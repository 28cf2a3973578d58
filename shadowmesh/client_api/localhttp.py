"""HTTP to the controller on this host, at its socket, with the standard library: a short command starts quickly with it."""

from __future__ import annotations

import http.client
import json as codec
import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from shadowmesh.client_api.unixsocket import connect
from shadowmesh.model.errors import Kind, ShadowMeshError

SOCKET_NAME = "controller.sock"


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """What httpx's answers have, too, as far as it is used."""

    status_code: int
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    def json(self) -> Any:
        return codec.loads(self.content)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("controller", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock: socket.socket = connect(self._path, self.timeout)

    def freshen(self) -> None:
        """The controller has ended a connection that was idle for long, while a person was asked something."""
        idle: socket.socket | None = self.sock
        if idle is not None and select.select([idle], [], [], 0)[0]:
            self.close()


class LocalHttp:
    """One request at a time. Raises ShadowMeshError: controller_unreachable, no_permission."""

    def __init__(self, data_dir: Path, timeout: float) -> None:
        self.data_dir = data_dir
        self._connection = _Connection(data_dir / SOCKET_NAME, timeout)

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> LocalAnswer:
        if params:
            path += "?" + urlencode(params)
        body = None if json is None else codec.dumps(json).encode()
        sent = {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})}
        try:
            self._connection.freshen()
            self._connection.request(method, path, body, sent)
            answer = self._connection.getresponse()
            return LocalAnswer(answer.status, answer.read())
        except PermissionError as e:
            raise no_permission(self.data_dir) from e
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()
            raise not_running(self.data_dir) from e

    def close(self) -> None:
        self._connection.close()


def not_running(data_dir: Path) -> ShadowMeshError:
    return ShadowMeshError(
        "controller_unreachable",
        f"no controller runs in {data_dir}",
        f"start it with `shadowmesh controller run --data-dir {data_dir}`",
        kind=Kind.UNREACHABLE,
    )


def no_permission(data_dir: Path) -> ShadowMeshError:
    return ShadowMeshError(
        "no_permission",
        f"{data_dir} may not be used",
        "run as root or as the controller's user, or sign in with `shadowmesh login URL`",
        kind=Kind.NOT_ALLOWED,
    )
