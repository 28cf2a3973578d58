"""One's own second factor: set up by an app's code, recovery codes renewed, taken away."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from shadowmesh.model.accounts import RecoveryCodes, SecondFactor, SecondFactorSecret
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.console.createwindow import BUTTONS
from shadowmesh_tui.screens.dialogs import WINDOW
from shadowmesh_tui.view import View

_OFF = "No code is asked for when you sign in. To set one up, show your password once more."
_BEGUN = (
    "Put the secret into an authenticator app (QR shows it as a picture), then type a code of the app. Until then no code is asked for. "
    "With it all your other sessions end."
)


class SecondFactorWindow(ConsoleWindow[None]):
    KEYS: ClassVar[Keys] = (
        ("Tab  Shift+Tab", "the next field, the one before"),
        ("Enter", "go on"),
        ("Esc", "leave it"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]
    DEFAULT_CSS = f"""
    SecondFactorWindow {{ {WINDOW} }}
    SecondFactorWindow > .window {{ width: 76; max-width: 100%; padding: 1 2; }}
    SecondFactorWindow VerticalScroll {{ height: auto; max-height: 100%; }}
    SecondFactorWindow .words {{ height: auto; }}
    SecondFactorWindow .secret {{ height: auto; text-style: bold; margin-top: 1; }}
    SecondFactorWindow .row {{ height: 1; margin-top: 1; }}
    SecondFactorWindow .label {{ width: 12; color: $text-muted; }}
    SecondFactorWindow Input {{ width: 1fr; height: 1; border: none; padding: 0 1; background: $panel; }}
    SecondFactorWindow Input:focus {{ background: $foreground 20%; }}
    SecondFactorWindow .said {{ height: auto; max-height: 3; margin-top: 1; color: $text-error; }}
    SecondFactorWindow .buttons {{ height: 1; margin-top: 1; }}
    SecondFactorWindow .-away {{ display: none; }}
    SecondFactorWindow {{ {BUTTONS} }}
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.factor: SecondFactor | None = None
        self.secret: SecondFactorSecret | None = None
        self._words, self._secret, self._said = (Static(classes=name) for name in ("words", "secret", "said"))
        self._password = Input(password=True, compact=True, id="password")
        self._code = Input(placeholder="of the app, or a recovery code", compact=True, id="code")
        self._rows = [
            Horizontal(Static(label, classes="label"), editor, classes="row")
            for label, editor in (("Password", self._password), ("Code", self._code))
        ]
        self._buttons = {
            name: Button(label, id=name, compact=True)
            for name, label in (
                ("begin", "Set it up"), ("picture", "QR"), ("copy", "Copy"), ("confirm", "Confirm"),
                ("renew", "New recovery codes"), ("disable", "Take it away"),
            )
        }  # fmt: skip

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "second factor"
            window.border_subtitle = "Esc closes"
            with VerticalScroll(can_focus=False):
                yield self._words
                yield self._secret
                yield from self._rows
                yield self._said
                with Horizontal(classes="buttons"):
                    yield from self._buttons.values()

    def on_mount(self) -> None:
        self._offer()
        self._read()

    def show_desk(self, desk: Desk) -> None:
        """It shows what it has read itself."""

    @work(group="read")
    async def _read(self) -> None:
        try:
            self.factor = await self.desk.call(lambda client: client.second_factor())
        except ShadowMeshError as e:
            self._say(line(e))
        self._offer()

    def _offer(self) -> None:
        """What counts at this step."""
        factor, begun = self.factor, self.secret is not None
        on = factor is not None and factor.enabled
        if factor is None:
            words = "Reading …"
        elif on:
            since = "" if factor.since is None else f" since {factor.since.astimezone():%Y-%m-%d}"
            words = f"A code is asked for{since}; {factor.recovery_codes_left} recovery codes are left. New ones need a code; "
            words += "to take it away needs password and code, and from then on the password alone signs in."
        else:
            words = _BEGUN if begun else _OFF
        self._words.update(Content(words))
        self._secret.update(Content(self.secret.secret if self.secret is not None else ""))
        self._secret.set_class(not begun, "-away")
        password, code = self._rows
        password.set_class(factor is None or begun, "-away")
        code.set_class(not (begun or on), "-away")
        shown = (
            {"picture", "copy", "confirm"} if begun else {"renew", "disable"} if on else {"begin"} if factor else set()
        )
        for name, button in self._buttons.items():
            button.display = name in shown
        if factor is not None and (self.focused is None or not self.focused.region):
            (self._code if begun or on else self._password).focus()

    def _say(self, text: str) -> None:
        self._said.update(Content(text))

    def on_input_changed(self) -> None:
        self._say("")

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        if self.secret is not None:
            self._confirm()
        elif self.factor is not None and not self.factor.enabled:
            self._begin()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        match event.button.id:
            case "begin":
                self._begin()
            case "confirm":
                self._confirm()
            case "renew":
                self._renew()
            case "disable":
                self._disable()
            case "picture" | "copy" as how if self.secret is not None:
                if how == "picture":
                    words = "For the camera of an authenticator app."
                    self.open(CodeWindow("second factor", self.secret.uri, words, picture=True))
                else:
                    self.app.copy_to_clipboard(self.secret.secret)
                    self.notify("Copied, where the terminal lets programs do so (OSC 52).")
            case _:
                pass

    @work(group="act", exclusive=True)
    async def _begin(self) -> None:
        password = self._password.value
        try:
            self.secret = await self.desk.call(lambda client: client.second_factor_enrol(password))
        except ShadowMeshError as e:
            self._say(line(e))
            return
        self._password.value = ""
        self._offer()
        self._code.focus()

    @work(group="act", exclusive=True)
    async def _confirm(self) -> None:
        code = self._code.value.strip()
        try:
            made = await self.desk.call(lambda client: client.second_factor_confirm(code))
        except ShadowMeshError as e:
            self._say(line(e))
            return
        self._recovery(made)

    @work(group="act", exclusive=True)
    async def _renew(self) -> None:
        code = self._code.value.strip()
        try:
            made = await self.desk.call(lambda client: client.recovery_codes_renew(code))
        except ShadowMeshError as e:
            self._say(line(e))
            return
        self._recovery(made)

    def _recovery(self, made: RecoveryCodes) -> None:
        words = "Each is good once in place of a code. They are shown here alone: keep them where the app isn't."
        self.open(CodeWindow("recovery codes", "\n".join(made.recovery_codes), words))
        self.secret = None
        self._code.value = ""
        self._read()

    @work(group="act", exclusive=True)
    async def _disable(self) -> None:
        password, code = self._password.value, self._code.value.strip()
        try:
            await self.desk.call(lambda client: client.second_factor_disable(password, code))
        except ShadowMeshError as e:
            self._say(line(e))
            return
        self._password.value = self._code.value = ""
        self.notify("No code is asked for any more.")
        self._read()
