"""The settings of a network: every field checked as it is typed, the code shown when it is asked for, the difference before it is
saved, and deleting by typing the name."""

from __future__ import annotations

from typing import ClassVar, Literal

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from shadowmesh.model.api import InvitationCode, Invite, Network, Permission
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.forms import LABELS, changed, choices, findings, of_network, patch, words
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.palette import Palette
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.console.createwindow import BUTTONS
from shadowmesh_tui.screens.dialogs import WINDOW, ConfirmScreen
from shadowmesh_tui.text import shorten
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.networkform import NetworkForm

Showing = Literal["show", "copy", "picture"]


class SettingsWindow(ConsoleWindow[None]):
    AUTO_FOCUS = "#field-name"
    KEYS: ClassVar[Keys] = (
        ("Tab  Shift+Tab", "the next field, the one before"),
        ("Space", "switch a box, open a list"),
        ("Ctrl+S", "save: what would change is shown first"),
        ("Esc", "leave; asks if something was changed"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close"),
        Binding("ctrl+s", "save", "Save"),
    ]
    DEFAULT_CSS = f"""
    SettingsWindow {{ {WINDOW} }}
    SettingsWindow > .window {{ width: 100; max-width: 100%; padding: 0 2; }}
    SettingsWindow VerticalScroll {{ height: auto; max-height: 100%; }}
    SettingsWindow .code {{ height: 1; margin-top: 1; }}
    SettingsWindow .code > .label {{ width: 18; color: $text-muted; }}
    SettingsWindow .code > .value {{ width: auto; max-width: 34; padding-right: 2; text-wrap: nowrap; text-overflow: ellipsis; }}
    SettingsWindow .about {{ height: 1; padding-left: 18; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }}
    SettingsWindow .said {{ height: auto; max-height: 2; }}
    SettingsWindow .said.-error {{ color: $text-error; }}
    SettingsWindow .buttons {{ height: 1; margin-top: 1; }}
    SettingsWindow {{ {BUTTONS} }}
    """

    def __init__(self, view: View, network: Network) -> None:
        super().__init__(view)
        self._network_id = network.network_id
        self._before = of_network(network)
        self._network_name = network.name
        relays = self.console.relays.values()
        self._form = NetworkForm(self._before, {key: choices(key, relays) for key in ("relay", "reports")})
        self._code: InvitationCode | None = None
        self._standing: Invite | None = None
        self._value, self._about = Static("hidden", classes="value"), Static(classes="about")
        self._said = Static(classes="said")

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(f"settings of {shorten(self._network_name, 64)}")
            window.border_subtitle = "Ctrl+S saves   Esc closes"
            with VerticalScroll(can_focus=False):
                yield self._form
                with Horizontal(classes="code"):
                    yield Static("Invitation code", classes="label")
                    yield self._value
                    yield Button("Show", id="show", compact=True)
                    yield Button("Copy", id="copy", compact=True)
                    yield Button("QR", id="picture", compact=True)
                    yield Button("Regenerate", id="regenerate", compact=True)
                yield self._about
                yield self._said
                with Horizontal(classes="buttons"):
                    yield Button("Save changes", id="save", compact=True)
                    yield Button("Delete …", id="delete", compact=True)

    def on_mount(self) -> None:
        may_invite = self._may(Permission.NETWORK_INVITE)
        for name in ("show", "copy", "picture", "regenerate"):
            self.query_one(f"#{name}", Button).display = may_invite
        self.query_one("#delete", Button).display = self._may(Permission.NETWORK_DELETE)
        if may_invite:
            self._read_code()
        else:
            self._value.update("your role here doesn't show it")

    def _may(self, needed: Permission) -> bool:
        return self.may(needed, self._network_id)

    @property
    def network(self) -> Network | None:
        """As it is now; None: it has gone."""
        return self.console.networks.get(self._network_id)

    def show_desk(self, desk: Desk) -> None:
        network = self.network
        if network is None:
            self._say(f"{shorten(self._network_name, 40)} isn't there any more.", error=True)
            return
        found = findings(self._form.values, desk.console.networks.values(), network)
        self._form.show(found)
        if self._form.said_here(found):
            self._say(self._form.said_here(found), error=True)

    def _say(self, text: str, *, error: bool = False) -> None:
        self._said.set_class(error, "-error")
        self._said.update(Content(text))

    def on_network_form_changed(self, _message: NetworkForm.Changed) -> None:
        count = len(changed(self._before, self._form.values))
        self._say("" if not count else f"{count} {'field is' if count == 1 else 'fields are'} changed.")
        self.show()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        match event.button.id:
            case "save":
                self.action_save()
            case "delete":
                self.open(DeleteWindow(self._network_name), self._deleting)
            case "regenerate":
                question = f"Make another code for {shorten(self._network_name, 40)}? Whoever has the one of now can't join by it."
                self.open(ConfirmScreen(question), self._regenerating)
            case "show" | "copy" | "picture" as how:
                self._show_code(how)
            case _:
                pass

    # the code

    @work(group="code")
    async def _read_code(self) -> None:
        """About it, not the code itself: to show that is written down."""
        try:
            invites = await self.desk.call(lambda api: api.invite_list(self._network_id))
        except ShadowMeshError as e:
            self._about.update(Content(line(e)))
            return
        self._standing = next((i for i in invites if i.standing and i.state == "open"), None)
        if self._standing is None:
            self._about.update("it has none: Regenerate makes one")
            return
        used = self._standing.uses - self._standing.uses_left
        until = self._standing.expires_at.astimezone()
        self._about.update(
            f"used {used} times of {self._standing.uses:,}, until {until:%Y-%m-%d}; showing it is audited"
        )

    @work(group="code")
    async def _show_code(self, how: Showing) -> None:
        code = self._code or await self.act(lambda api: api.code_show(self._network_id), failed="Not shown")
        if code is None:
            return
        self._code = code
        self._value.update(Content(code.invitation_code))
        if how == "copy":
            self.app.copy_to_clipboard(code.invitation_code)
            self.notify("Copied, where the terminal lets programs do so (OSC 52).")
        elif how == "picture":
            waits = "waits for approval" if code.approval else "is in at once"
            words_ = f"Who joins {code.network} by it {waits}."
            self.open(CodeWindow("invitation code", code.invitation_code, words_, picture=True))

    def _regenerating(self, yes: bool | None) -> None:
        if yes:
            self._regenerate()

    @work(group="code")
    async def _regenerate(self) -> None:
        code = await self.act(
            lambda api: api.code_regenerate(self._network_id), done="There is another code.", failed="Not regenerated"
        )
        if code is not None:
            self._code = code
            self._value.update(Content(code.invitation_code))
            self._read_code()

    # saving

    def action_save(self) -> None:
        network = self.network
        if network is None:
            return
        found = findings(self._form.values, self.console.networks.values(), network)
        wrong = next((key for key in self._form.rows if key in found and found[key].error), None)
        if wrong is not None:
            self._form.rows[wrong].editor.focus()
            self._say(f"{LABELS[wrong]}: {found[wrong].text}.", error=True)
            return
        if not changed(self._before, self._form.values):
            self._say("Nothing is changed.")
            return
        difference = difference_text(self._before, self._form.values, of_network(network), self.palette)
        self.open(DifferenceWindow(self._network_name, difference), self._saving)

    def _saving(self, yes: bool | None) -> None:
        if yes:
            self._save()

    @work(group="act")
    async def _save(self) -> None:
        wish, desk = patch(self._before, self._form.values), self.desk
        try:
            network = await desk.call(lambda api: api.network_set(self._network_id, wish))
        except ShadowMeshError as e:
            self._say(line(e), error=True)
            return
        desk.console.take_network(network)
        desk.want(Wants(networks={self._network_id}))
        for warning in network.warnings:
            self.notify(warning, title=network.name, severity="warning", markup=False)
        self.notify(f"{network.name}: saved.", markup=False)
        self.dismiss(None)

    def action_leave(self) -> None:
        if self.network is not None and changed(self._before, self._form.values):
            self.open(ConfirmScreen("Leave without saving what you changed?"), self._leaving)
        else:
            self.dismiss(None)

    def _leaving(self, yes: bool | None) -> None:
        if yes:
            self.dismiss(None)

    # deleting

    def _deleting(self, yes: bool | None) -> None:
        if yes:
            self._delete()

    @work(group="act")
    async def _delete(self) -> None:
        desk = self.desk
        try:
            await desk.call(lambda api: api.network_delete(self._network_id))
        except ShadowMeshError as e:
            self._say(line(e), error=True)
            return
        desk.console.drop_network(self._network_id)
        self.notify(f"{self._network_name}: deleted.", markup=False)
        self.dismiss(None)


def difference_text(
    before: dict[str, str | bool], after: dict[str, str | bool], now: dict[str, str | bool], styles: Palette
) -> Text:
    """A line or two for each field that saving would change; and where somebody else changed it meanwhile."""
    text = Text()
    for key, (old, new) in changed(before, after).items():
        text.append(f"{LABELS[key]:<18}", style=styles["muted"])
        text.append(words(key, old), style=styles["error"]).append("  →  ", style=styles["muted"])
        text.append(words(key, new), style=styles["good"])
        if now[key] != old:
            text.append(f"  (meanwhile: {words(key, now[key])})", style=styles["warning"])
        text.append("\n")
    text.right_crop(1)
    return text


class DifferenceWindow(ModalScreen[bool]):
    AUTO_FOCUS = "#yes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,ctrl+s", "answer(True)", "Save"),
        Binding("n,escape,q", "answer(False)", "Back"),
        Binding("left,right,h,l", "app.focus_next", show=False),
    ]
    DEFAULT_CSS = f"""
    DifferenceWindow {{ {WINDOW} }}
    DifferenceWindow > .window {{ width: 76; max-width: 100%; padding: 1 2; }}
    DifferenceWindow VerticalScroll {{ height: auto; max-height: 70vh; }}
    DifferenceWindow .buttons {{ height: 1; margin-top: 1; }}
    DifferenceWindow {{ {BUTTONS} }}
    """

    def __init__(self, name: str, difference: Text) -> None:
        super().__init__()
        self._network_name, self.difference = name, difference

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = Content(f"what changes of {shorten(self._network_name, 50)}")
            with VerticalScroll(can_focus=False):
                yield Static(self.difference)
            with Horizontal(classes="buttons"):
                yield Button("Save (y)", id="yes", compact=True)
                yield Button("Back (n)", id="no", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class DeleteWindow(ModalScreen[bool]):
    """Closes with True once the name was typed."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(False)", "Close")]
    DEFAULT_CSS = f"""
    DeleteWindow {{ {WINDOW} }}
    DeleteWindow > .window {{ width: 76; max-width: 100%; padding: 1 2; }}
    DeleteWindow Input {{ height: 1; border: none; padding: 0 1; background: $panel; margin-top: 1; }}
    DeleteWindow .hint {{ color: $text-muted; }}
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._network_name = name
        self._hint = Static("Esc leaves it as it is.", classes="hint")

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "delete this network?"
            words_ = (
                f"All clients of {self._network_name} are cut off at once, and its keys are destroyed. This can't be undone. "
                "To delete it, type its name and press Enter."
            )
            yield Static(Content(words_))
            yield Input(compact=True)
            yield self._hint

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.value == self._network_name:
            self.dismiss(True)
        else:
            self._hint.update("That isn't its name.")
