"""The router of the pages, and what their paths and queries take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

router = APIRouter(prefix="/web")

NetworkID = Annotated[str, Path(max_length=100, pattern=r"^net_[\x21-\x7e]+$")]
ClientID = Annotated[str, Path(max_length=100, pattern=r"^cli_[\x21-\x7e]+$")]
Name = Annotated[str, Path(max_length=100, pattern=r"^[\x21-\x7e]+$")]
Cursor = Annotated[str | None, Query(max_length=200, pattern=r"^[\x20-\x7e]*$")]
NEXT = r"^/web/[A-Za-z0-9_/.-]{0,290}$"
Next = Annotated[str, Query(pattern=NEXT)]
