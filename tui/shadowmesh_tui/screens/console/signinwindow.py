"""Signing in to a controller: with address and password, a code of the second factor where one is asked for, or an API key."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Static

from shadowmesh.client_api import signin
from shadowmesh.client_api.contact import first_contact
from shadowmesh.client_api.offloop import in_thread
from shadowmesh.model.accounts import WhoAmI
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.text import escaped
from shadowmesh_tui.console.contexts import Context
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.notices import sentence
from shadowmesh_tui.screens.console.createwindow import BUTTONS
from shadowmesh_tui.screens.dialogs import WINDOW
from shadowmesh_tui.widgets.networkform import Box

_WANTS_CODE = ("code_required", "bad_code")
_WANTS_PASSWORD = ("password_change_required", "weak_password", "same_password")


class SignInWindow(ModalScreen[Context | None]):
    """Closes with the controller that one is signed in to. What was typed is held by the fields alone, until it closes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]
    DEFAULT_CSS = f"""
    SignInWindow {{ {WINDOW} }}
    SignInWindow > .window {{ width: 84; max-width: 100%; padding: 1 2; }}
    SignInWindow VerticalScroll {{ height: auto; max-height: 100%; }}
    SignInWindow .row {{ height: 1; }}
    SignInWindow .row.-away {{ display: none; }}
    SignInWindow .label {{ width: 16; color: $text-muted; }}
    SignInWindow Input {{ width: 1fr; height: 1; border: none; padding: 0 1; background: $panel; }}
    SignInWindow Input:focus {{ background: $foreground 20%; }}
    SignInWindow .said {{ height: auto; max-height: 4; margin-top: 1; color: $text-muted; }}
    SignInWindow .said.-error {{ color: $text-error; }}
    SignInWindow .buttons {{ height: 1; margin-top: 1; }}
    SignInWindow {{ {BUTTONS} }}
    """

    def __init__(self, url: str = "", why: str = "") -> None:
        super().__init__()
        self._why = why
        self._url = Input(url, placeholder="https://HOST:8443", compact=True, id="url")
        self._fingerprint = Input(
            placeholder="sha256:… as its host says it; empty: by its certificate",
            compact=True,
            id="fingerprint",
        )
        self._by_key = Box("with an API key", compact=True, id="by-key")
        self._key = Input(placeholder="sk_…", password=True, compact=True, id="key")
        self._email = Input(placeholder="anna@example.org", compact=True, id="email")
        self._password = Input(password=True, compact=True, id="password")
        self._code = Input(placeholder="six digits, or a recovery code", compact=True, id="code")
        self._new = Input(placeholder="10 characters or more", password=True, compact=True, id="new")
        self._again = Input(placeholder="the same again", password=True, compact=True, id="again")
        self._rows: dict[str, Input | Checkbox] = {
            "Controller": self._url, "Fingerprint": self._fingerprint, "": self._by_key, "API key": self._key,
            "E-mail": self._email, "Password": self._password, "Code": self._code, "New password": self._new,
            "Again": self._again,
        }  # fmt: skip
        self._lines: dict[Input | Checkbox, Horizontal] = {}
        self._said = Static(classes="said")
        self._asks_code = self._asks_new = self._busy = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "sign in"
            window.border_subtitle = "Enter signs in   Esc closes"
            with VerticalScroll(can_focus=False):
                for label, editor in self._rows.items():
                    row = Horizontal(Static(label, classes="label"), editor, classes="row")
                    self._lines[editor] = row
                    yield row
                yield self._said
                with Horizontal(classes="buttons"):
                    yield Button("Sign in", id="sign-in", compact=True)
                    yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        self._offer()
        if self._why:
            self._say(self._why)
        (self._email if self._url.value else self._url).focus()

    def _offer(self) -> None:
        """The fields that are asked for now."""
        key = self._by_key.value
        shown = {
            self._key: key,
            self._email: not key,
            self._password: not key,
            self._code: not key and self._asks_code,
            self._new: not key and self._asks_new,
            self._again: not key and self._asks_new,
        }
        for editor, there in shown.items():
            self._lines[editor].set_class(not there, "-away")

    def _say(self, text: str, *, error: bool = False) -> None:
        self._said.set_class(error, "-error")
        self._said.update(Content(text))

    def on_checkbox_changed(self, _event: Checkbox.Changed) -> None:
        self._offer()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "sign-in":
            self._begin()
        else:
            self.dismiss(None)

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        missing = next((e for e, row in self._lines.items() if self._is_missing(e, row)), None)
        if missing is not None:
            missing.focus()
        else:
            self._begin()

    def _is_missing(self, editor: Input | Checkbox, row: Horizontal) -> bool:
        return (
            isinstance(editor, Input)
            and not editor.value
            and not row.has_class("-away")
            and editor is not self._fingerprint
        )

    def _begin(self) -> None:
        if self._asks_new and not self._by_key.value and self._new.value != self._again.value:
            self._say("The two new passwords differ.", error=True)
            self._new.focus()
        elif not self._busy:
            self._say("Signing in …")
            self._sign_in()

    @work(group="sign-in")
    async def _sign_in(self) -> None:
        url, fingerprint = self._url.value.strip(), self._fingerprint.value.strip() or None
        by_key = self._by_key.value
        key, email = self._key.value.strip(), self._email.value.strip()
        password, new, code = self._password.value, self._new.value, self._code.value.strip() or None
        asks_new = self._asks_new

        def sign_in() -> tuple[str, WhoAmI]:
            contact = first_contact(url, fingerprint)
            if by_key:
                return contact.url, signin.login(contact, token=key, beside=True)
            changed = new if asks_new else None
            who = signin.login(contact, email=email, password=password, new_password=changed, code=code, beside=True)
            return contact.url, who

        self._busy = True
        try:
            where, who = await in_thread(sign_in)
        except ShadowMeshError as e:
            self._refused(e)
            return
        finally:
            self._busy = False
        self.app.notify(f"Signed in to {where} as {escaped(who.name)}.", markup=False)
        self.dismiss(Context("login", where))

    def _refused(self, error: ShadowMeshError) -> None:
        if error.code in _WANTS_PASSWORD:
            first = not self._asks_new
            self._asks_new = True
            self._offer()
            self._say(sentence(error.what) + ("" if first else f" {sentence(error.remedy)}"), error=not first)
            self._new.focus()
        elif error.code in _WANTS_CODE:
            first = not self._asks_code
            self._asks_code = True
            self._offer()
            self._say("A code of the second factor is asked for." if first else line(error), error=not first)
            self._code.focus()
        else:
            self._say(line(error), error=True)
