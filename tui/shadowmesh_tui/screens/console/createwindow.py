"""Making a network: by a template, checked as it is typed; then the invitation code, once."""

from __future__ import annotations

from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Select, Static

from shadowmesh.model.api import NetworkCreated
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh.model.templates import BUILT_IN, Template
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.forms import choices, findings, of_template, wish
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.screens.console.base import ConsoleWindow, Keys
from shadowmesh_tui.screens.console.codewindow import CodeWindow
from shadowmesh_tui.screens.dialogs import WINDOW
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.networkform import NetworkForm

_NONE = ""
BUTTONS = """
    Button { min-width: 0; width: auto; margin-right: 2; background: $panel; color: $foreground; text-style: none; }
    Button:focus { background: $foreground; color: $surface; text-style: bold; background-tint: $foreground 0%; }
    Button:nocolor:focus { text-style: bold reverse; }
"""


class CreateWindow(ConsoleWindow[None]):
    """The network that is made is the chosen one."""

    AUTO_FOCUS = "#field-name"
    KEYS: ClassVar[Keys] = (
        ("Tab  Shift+Tab", "the next field, the one before"),
        ("Space", "switch a box, open a list"),
        ("Ctrl+S", "make the network"),
        ("Esc", "leave it"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "save", "Create")]
    DEFAULT_CSS = f"""
    CreateWindow {{ {WINDOW} }}
    CreateWindow > .window {{ width: 100; max-width: 100%; padding: 0 2; }}
    CreateWindow VerticalScroll {{ height: auto; max-height: 100%; }}
    CreateWindow .template {{ height: 1; margin-bottom: 1; }}
    CreateWindow .template > .label {{ width: 18; color: $text-muted; }}
    CreateWindow .template > Select {{ width: 50; height: 1; }}
    CreateWindow .said {{ height: 1; color: $text-muted; }}
    CreateWindow .said.-error {{ color: $text-error; }}
    CreateWindow .buttons {{ height: 1; margin-top: 1; }}
    CreateWindow {{ {BUTTONS} }}
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._templates: dict[str, Template] = dict(BUILT_IN)
        self._template: Select[str] = Select(
            [("none", _NONE)], value=_NONE, allow_blank=False, compact=True, id="template"
        )
        start = of_template(None, {})
        relays = list(self.console.relays.values()) if view.desk is not None else []
        options = {key: choices(key, relays) for key in ("relay", "reports")}
        self._form = NetworkForm(start, options)
        self._said = Static(classes="said")
        self._busy = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "new network"
            window.border_subtitle = "Ctrl+S makes it   Esc closes"
            with VerticalScroll(can_focus=False):
                with Horizontal(classes="template"):
                    yield Static("Template", classes="label")
                    yield self._template
                yield self._form
                yield self._said
                with Horizontal(classes="buttons"):
                    yield Button("Create", id="save", compact=True)
                    yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        self._offer()
        self._read_templates()

    @work(group="templates")
    async def _read_templates(self) -> None:
        try:
            found = await self.desk.call(lambda api: api.template_list())
        except ShadowMeshError:
            return  # the built-in ones are known
        self._templates = {t.name: t for t in found}
        self._offer()

    def _offer(self) -> None:
        chosen = self._template.value
        options = [(Content("none"), _NONE)] + [
            (Content(f"{t.name}: {t.description}" if t.description else t.name), t.name)
            for t in self._templates.values()
        ]
        self._template.set_options(options)
        self._template.value = chosen if chosen in self._templates else _NONE

    def show_desk(self, desk: Desk) -> None:
        found = findings(self._form.values, desk.console.networks.values())
        if not self._form.values["name"]:
            found.pop("name")  # nothing was typed yet
        self._form.show(found)
        if self._form.said_here(found):
            self._say(self._form.said_here(found))

    @on(Select.Changed, "#template")
    def _template_chosen(self, event: Select.Changed) -> None:
        template = self._templates.get(str(event.value))
        self._form.put(of_template(template, self._form.values))
        self.show()

    def on_network_form_changed(self, _message: NetworkForm.Changed) -> None:
        self._say("")
        self.show()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "save":
            self.action_save()
        else:
            self.dismiss(None)

    def action_save(self) -> None:
        found = findings(self._form.values, self.console.networks.values())
        wrong = next((key for key in self._form.rows if key in found and found[key].error), None)
        self._form.show(found)
        if wrong is not None:
            self._form.rows[wrong].editor.focus()
            self._say(f"{self._form.rows[wrong].field.label}: {found[wrong].text}.")
        elif not self._busy:
            self._create()

    def _say(self, text: str) -> None:
        self._said.set_class(bool(text), "-error")
        self._said.update(Content(text))

    @work(group="act")
    async def _create(self) -> None:
        desk, template = self.desk, str(self._template.value)
        made = wish(self._form.values, template if template in self._templates else None)
        self._busy = True
        try:
            network = await desk.call(lambda api: api.network_create(made))
        except ShadowMeshError as e:
            self._say(line(e))
            return
        finally:
            self._busy = False
        desk.want(Wants(networks={network.network_id}))
        desk.console.take_network(network)
        desk.console.choose(network.network_id)
        for warning in network.warnings:
            self.notify(warning, title=network.name, severity="warning", markup=False)
        self.open(CodeWindow(f"{network.name} is made", network.invitation_code, _after(network)), None)
        self.dismiss(None)


def _after(network: NetworkCreated) -> str:
    waits = "waits for approval" if network.approval or network.code_approval else "is in at once"
    return f"{network.subnet}. Who joins by this code {waits}. It can be shown again in the settings."
