"""Letting a machine join, in three steps: install, connect, and see it come; who waits for approval is let in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static

from shadowmesh.client_api.exports import write_new
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import Client, InviteCreate
from shadowmesh.model.joinconfig import client_configuration
from shadowmesh.model.text import escaped
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.rows import path
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.console.clientacts import approving, do_each
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.console.createwindow import BUTTONS
from shadowmesh_tui.screens.console.filewindow import FileWindow
from shadowmesh_tui.screens.dialogs import SCROLLING, WINDOW, ReadingScreen, Scrolls
from shadowmesh_tui.text import latency, shorten
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.lines import Lines

_INSTALL = (
    "$ pipx install .                  # or copy the one file of `make dist`",
    "$ sudo shadowmesh daemon install  # systemd runs it",
)
_DOCS = (
    ("shadowmesh daemon install", "systemd runs the daemon, now and with the machine"),
    ("shadowmesh join INVITE", "joins by an invite, good for one machine"),
    ("shadowmesh register", "joins by the network's own code"),
    ("shadowmesh daemon run --config", "registers by itself, as the downloaded file says"),
    ("shadowmesh status", "who is there, by which path, and why"),
    ("shadowmesh ping PEER", "reaches another machine by its name"),
    ("shadowmesh why PEER", "explains the path to it"),
    ("shadowmesh doctor", "what the machine lacks, and what keeps it from others"),
    ("shadowmesh leave", "takes the machine out of a network"),
    ("shadowmesh help", "all else"),
)
_MOST = 8  # newcomers


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a machine joins by: `secret`, typed as `command`. `waits`: for approval."""

    secret: str
    command: str
    words: str
    picture: str


def _invite(network_id: str, api: ControllerClient) -> Ticket:
    made = api.invite_create(network_id, InviteCreate())
    until = made.expires_at.astimezone()
    return Ticket(
        made.invite,
        f"shadowmesh join {made.invite}",
        f"good for one machine, until {until:%Y-%m-%d %H:%M}; it is shown here alone ({made.id})",
        made.invite,
    )


def _code(network_id: str, api: ControllerClient) -> Ticket:
    code, who, identity = api.code_show(network_id), api.whoami(), api.identity()
    url = next(iter(who.controller_urls), "https://HOST:8443")
    command = (
        f"shadowmesh register --controller {url} \\\n    --fingerprint {identity.identity.fingerprint} \\\n"
        f"    --invite {code.invitation_code}"
    )
    waits = "who comes by it waits for approval" if code.approval else "who comes by it is in at once"
    return Ticket(
        code.invitation_code, command, f"the network's own code, good for many; {waits}", code.invitation_code
    )


class JoinWindow(Scrolls, ConsoleWindow[None]):
    AUTO_FOCUS = "#invite"
    KEYS: ClassVar[Keys] = (
        ("i", "a new invite: for one machine, good for a day"),
        ("o", "the network's own code: for many (showing it is audited)"),
        ("c", "copy the command"),
        ("v", "a picture of it, for a phone's camera"),
        ("a", "let in who waits"),
        ("d", "write the configuration of a machine to a file"),
        ("?", "what is done on the machine"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", "Close"),
        Binding("i", "ticket('invite')", "New invite"),
        Binding("o", "ticket('code')", "The code"),
        Binding("c", "copy", "Copy"),
        Binding("v", "picture", "QR"),
        Binding("a", "approve", "Let in"),
        Binding("d", "download", "Download config"),
        Binding("question_mark", "docs", "View docs"),
        *SCROLLING,
    ]
    DEFAULT_CSS = f"""
    JoinWindow {{ {WINDOW} }}
    JoinWindow > .window {{ width: 100; max-width: 100%; padding: 0 2; }}
    JoinWindow VerticalScroll {{ height: auto; max-height: 100%; }}
    JoinWindow .step {{ color: $text-primary; text-style: bold; margin-top: 1; }}
    JoinWindow .step.-first {{ margin-top: 0; }}
    JoinWindow .command {{ height: auto; padding: 0 1; background: $panel; }}
    JoinWindow .words {{ height: auto; color: $text-muted; }}
    JoinWindow .buttons {{ height: 1; margin-top: 1; }}
    JoinWindow .newcomers {{ padding: 0 1; }}
    JoinWindow {{ {BUTTONS} }}
    """

    def __init__(self, view: View, network_id: str) -> None:
        super().__init__(view)
        self._network_id = network_id
        known = self.console.clients.get(network_id, {}).keys() | self.console.waiting.get(network_id, {}).keys()
        self._before = set(known)
        self.ticket: Ticket | None = None
        self._command = Static("make an invite, or show the network's code", classes="command")
        self._words = Static(classes="words")
        self._newcomers = Lines()
        self._newcomers.add_class("newcomers")
        self._scrolled = VerticalScroll(can_focus=False)

    def compose(self) -> ComposeResult:
        network = self.console.networks.get(self._network_id)
        with Vertical(classes="window") as window:
            window.border_title = Content(f"join {shorten(network.name, 64) if network else 'a network'}")
            window.border_subtitle = "c copies   v QR   Esc closes"
            with self._scrolled:
                yield Static("1  Install ShadowMesh on the machine", classes="step -first")
                yield Static(Content("\n".join(_INSTALL)), classes="command")
                yield Static("2  Connect it to the controller", classes="step")
                yield self._command
                yield self._words
                with Horizontal(classes="buttons"):
                    yield Button("New invite (i)", id="invite", compact=True)
                    yield Button("The network's code (o)", id="code", compact=True)
                    yield Button("Copy (c)", id="copy", compact=True)
                    yield Button("QR (v)", id="picture", compact=True)
                yield Static("3  See it come", classes="step")
                yield self._newcomers
                with Horizontal(classes="buttons"):
                    yield Button("Download config (d)", id="download", compact=True)
                    yield Button("View docs (?)", id="docs", compact=True)

    def scrolled(self) -> VerticalScroll:
        return self._scrolled

    def show_desk(self, desk: Desk) -> None:
        self._newcomers.put(self._lines(self.newcomers(), self.palette))

    def newcomers(self) -> list[Client]:
        """Who came since the window was opened, the newest first."""
        everybody = self.console.waiting.get(self._network_id, {}) | self.console.clients.get(self._network_id, {})
        new = [c for c in everybody.values() if c.client_id not in self._before]
        return sorted(new, key=lambda c: c.created_at, reverse=True)

    @staticmethod
    def _lines(clients: list[Client], styles: Palette) -> Text:
        if not clients:
            return Text("nobody yet; whoever joins shows up here by itself", style=styles["muted"])
        lines = []
        for client in clients[:_MOST]:
            mark, style = path(client)
            if client.state == "pending":
                said = "waits for approval: a lets it in"
            elif client.status == "online":
                said = f"is in and online  {latency(client.latency_ms) if client.latency_ms is not None else ''}"
            else:
                said = "is in, and not online yet"
            line = Text(no_wrap=True, overflow="ellipsis").append(f"{mark:<10}", style=styles[style])
            line.append(f"{shorten(client.name, 32)}  {client.ip}  ", style=styles["label"])
            lines.append(line.append(said, style=styles["muted"]))
        if len(clients) > _MOST:
            lines.append(Text(f"and {len(clients) - _MOST} more", style=styles["muted"]))
        return Text("\n").join(lines)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        match event.button.id:
            case "copy":
                self.action_copy()
            case "picture":
                self.action_picture()
            case "download":
                self.action_download()
            case "docs":
                self.action_docs()
            case "invite" | "code" as how:
                self.action_ticket(how)
            case _:
                pass

    def action_ticket(self, how: str) -> None:
        self._make(how)

    @work(group="ticket", exclusive=True)
    async def _make(self, how: str) -> None:
        making = _code if how == "code" else _invite
        ticket = await self.act(lambda api: making(self._network_id, api), failed="Not shown")
        if ticket is not None:
            self.ticket = ticket
            self._command.update(Content(f"$ {ticket.command}"))
            self._words.update(Content(ticket.words))

    def action_copy(self) -> None:
        if self.ticket is None:
            self.notify("Make an invite first (i), or show the code (o).", severity="warning")
            return
        self.app.copy_to_clipboard(self.ticket.command)
        self.notify("Copied, where the terminal lets programs do so (OSC 52).")

    def action_picture(self) -> None:
        if self.ticket is None:
            self.notify("Make an invite first (i), or show the code (o).", severity="warning")
        else:
            self.open(CodeWindow("to join by", self.ticket.picture, self.ticket.words, picture=True))

    def action_approve(self) -> None:
        waiting = [c for c in self.newcomers() if c.state == "pending"]
        if waiting:
            self._approve(waiting)

    @work(group="act")
    async def _approve(self, waiting: list[Client]) -> None:
        await do_each(self, waiting, approving, "let in")

    # a configuration, and what to read

    def action_download(self) -> None:
        words = (
            "For `shadowmesh daemon run --config FILE`: where the controller is, by what it is known, and which network. There is no secret in it: "
            "the API key by which the machine registers comes in SHADOWMESH_CONTROLLER_API_KEY. Your user alone may read the file."
        )
        self.open(FileWindow("download config", "client-config.yaml", words, (".yaml", ".yml")), self._file_chosen)

    def _file_chosen(self, choice: tuple[Path, bool] | None) -> None:
        if choice is not None:
            self._download(*choice)

    @work(group="act")
    async def _download(self, path: Path, replace: bool) -> None:
        network_id = self._network_id

        def write(api: ControllerClient) -> bool:
            network, who, identity = api.network_show(network_id), api.whoami(), api.identity()
            url = next(iter(who.controller_urls), "https://HOST:8443")
            text = client_configuration(url, identity.identity.fingerprint, network.network_id, network.name)
            write_new(path, text.encode(), replace=replace)
            return True

        await self.act(write, done=f"{shorten(escaped(str(path)), 120)}: written.", failed="Not written")

    def action_docs(self) -> None:
        styles, text = self.palette, Text()
        for command, words in _DOCS:
            text.append(f"{command:<30}", style=styles["me"]).append(f"{words}\n", style=styles["label"])
        url = next(iter(self.console.who.controller_urls), "") if self.console.who is not None else ""
        text.append(f"\nIn a browser: {url}/web/help" if url else "", style=styles["muted"])
        self.open(ReadingScreen("on the machine", text))
