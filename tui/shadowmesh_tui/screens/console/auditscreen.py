"""The audit log: who changed what; filtered, checked, exported."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from shadowmesh.client_api.logwording import audited_about, audited_change, verdict_words
from shadowmesh.model.api import AuditEntry, AuditVerdict
from shadowmesh.model.text import json_text
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.table import Column
from shadowmesh_tui.console.timerange import RANGES
from shadowmesh_tui.notices import sentence
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys
from shadowmesh_tui.screens.console.factswindow import FactsWindow
from shadowmesh_tui.screens.console.filewindow import file_name
from shadowmesh_tui.screens.console.logscreen import LOG_BINDINGS, LOG_KEYS, LogScreen, Reading
from shadowmesh_tui.text import UNKNOWN
from shadowmesh_tui.view import View

COLUMNS: Sequence[Column[AuditEntry]] = (
    Column("at", "at", lambda r: f"{r.at.astimezone():%m-%d %H:%M:%S}", lambda _: "muted", least=14, most=14,
           descends=True, sort=lambda r: r.seq),
    Column("actor", "who", lambda r: r.actor, least=12, most=40, sort=lambda r: r.actor.casefold()),
    Column("action", "what", lambda r: r.action, lambda _: "title", least=14, most=26, sort=lambda r: r.action),
    Column("target", "on", lambda r: r.target, least=10, most=40, sort=lambda r: r.target.casefold()),
    Column("network", "network", lambda r: str(r.detail.get("network") or UNKNOWN), lambda _: "muted", least=10, most=30,
           rank=3, sort=lambda r: str(r.detail.get("network") or "").casefold() or None),
    Column("change", "change", lambda r: audited_change(r.detail, 300), lambda _: "muted", least=20, most=120, rank=1),
    Column("seq", "number", lambda r: str(r.seq), lambda _: "muted", least=7, most=9, right=True, rank=4, descends=True,
           sort=lambda r: r.seq),
)  # fmt: skip


class AuditScreen(LogScreen[AuditEntry]):
    NAME = "audit"
    LIST = "audit"
    OF_NETWORKS = False
    EVERY_S = 5.0
    FIRST_RANGE = RANGES[2]
    PLACEHOLDER = "words of who, what, on what, network or change; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (*LOG_KEYS, ("v", "check the chain: that no entry was changed, taken out or cut off"))
    BINDINGS: ClassVar[list[BindingType]] = [Binding("v", "verify", "Check"), *LOG_BINDINGS, *CONSOLE_BINDINGS]

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS)

    @staticmethod
    def number(line: AuditEntry) -> int:
        return line.seq

    def hay(self, line: AuditEntry) -> str:
        return "\n".join((line.actor, line.action, audited_about(line), audited_change(line.detail)))

    @property
    def what(self) -> str:
        return "audit"

    @staticmethod
    def moment(line: AuditEntry) -> dt.datetime:
        return line.at

    def lines(self) -> Reading[AuditEntry]:
        return lambda client, since, until, last: client.audit_list(since=since, until=until, after=last)

    def about(self, desk: Desk) -> str:
        return "audit log"

    def said(self, line: AuditEntry) -> list[tuple[str, str]]:
        known = ("before", "after", "network")
        rows = [
            ("what", f"{line.action}  {line.target}"),
            ("who", line.actor),
            ("change", audited_change(line.detail) or UNKNOWN),
            ("at", f"{line.at.astimezone():%Y-%m-%d %H:%M:%S}, entry {line.seq}"),
            ("network", str(line.detail.get("network") or UNKNOWN)),
        ]
        rows += [(name, json_text(value)) for name, value in line.detail.items() if name not in known]
        return [*rows, ("hash", line.hash)]

    def action_verify(self) -> None:
        self.open(
            FactsWindow(self.view, "check of the audit log", Text(), lambda client: client.audit_verify(), verified)
        )

    def exported(self) -> tuple[str, str, type[Any]]:
        return file_name("audit"), "audit", AuditEntry


def verified(verdict: AuditVerdict, styles: Palette) -> Text:
    mark, style = ("✓", "good") if verdict.ok else ("✗", "error")
    text = Text().append(f"{mark} {sentence(verdict_words(verdict))}", style=styles[style])
    if not verdict.ok:
        remedy = "Compare with a backup from before, and see who can write to the database."
        text.append(f"\n\n{remedy}", style=styles["label"])
    text.append("\n\nChecked is that each entry follows from the one before, and against the newest entry that connected clients keep.", style=styles["muted"])  # fmt: skip
    return text.append(f"\nThe last entry's hash: {verdict.head}", style=styles["muted"])
