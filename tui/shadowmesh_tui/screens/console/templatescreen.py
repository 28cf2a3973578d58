"""Templates of networks: looked at, made of a network, written to files and read from them, deleted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from shadowmesh.client_api.exports import write_new
from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.client_api.templatefiles import read_templates, settings_like, template_yaml
from shadowmesh.model.templates import Template, TemplateCreate, TemplateSettings
from shadowmesh.model.text import escaped
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.forms import LABELS, Field, Value, words
from shadowmesh_tui.console.table import Column, in_order
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.screens.console.base import CONSOLE_BINDINGS, Keys
from shadowmesh_tui.screens.console.factswindow import FactsWindow
from shadowmesh_tui.screens.console.fetching import FetchingScreen
from shadowmesh_tui.screens.console.filewindow import FileWindow, file_name
from shadowmesh_tui.screens.console.formwindow import FormWindow
from shadowmesh_tui.screens.console.textwindow import TextWindow
from shadowmesh_tui.screens.dialogs import ConfirmScreen
from shadowmesh_tui.text import shorten
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.clientfacts import figures
from shadowmesh_tui.widgets.rowtable import RowTable

_CELLS = 40  # of a name in a sentence


def _settings(template: Template) -> list[tuple[str, str]]:
    """What it says, by the fields' labels."""
    said = template.settings.said()
    return [(LABELS.get(k, k), words(k, v if isinstance(v, bool) else str(v))) for k, v in said.items()]


def _short(template: Template) -> str:
    return ", ".join(f"{name.lower().removeprefix('… ')} {value}" for name, value in _settings(template)) or "nothing"


COLUMNS: Sequence[Column[Template]] = (
    Column("name", "template", lambda r: r.name, least=14, most=63, sort=lambda r: r.name.casefold()),
    Column("kind", "kind", lambda r: "built in" if r.built_in else "own", lambda r: "muted" if r.built_in else "good",
           least=8, most=8, sort=lambda r: r.built_in),
    Column("about", "about", lambda r: r.description, least=20, most=80, rank=1),
    Column("says", "says", _short, lambda _: "muted", least=20, most=110, rank=2),
)  # fmt: skip


class TemplatesScreen(FetchingScreen[Template]):
    NAME = "templates"
    LIST = "templates"
    OF_NETWORKS = False
    EVERY_S = 15.0
    PLACEHOLDER = "words that name, description or settings contain; Enter keeps, Esc clears"
    KEYS: ClassVar[Keys] = (
        ("↑ ↓  j k", "choose a template"),
        ("Enter", "all that it says"),
        ("+", "make one of the chosen network's settings"),
        ("w", "write it to a file (YAML, as `shadowmesh apply` takes it)"),
        ("i", "read templates from a file"),
        ("x", "delete it"),
        ("/", "show only lines that contain these words"),
        ("s  S", "order by the next column, the other way round"),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus", "make", "New", key_display="+"),
        Binding("w", "export", "Export"),
        Binding("i", "import_file", "Import"),
        Binding("x", "delete", "Delete"),
        *CONSOLE_BINDINGS,
    ]

    def __init__(self, view: View) -> None:
        super().__init__(view, COLUMNS, lambda template: template.name)

    def body(self) -> ComposeResult:
        yield self.head
        yield self.table
        yield self.filter
        yield self.facts

    # reading and showing

    @property
    def what(self) -> str:
        return "templates"

    def asks(self, desk: Desk) -> Callable[[ControllerClient], Any]:
        return lambda client: client.template_list()

    def _all(self, desk: Desk) -> list[Template]:
        return self.fetched(desk).value or []

    def instead(self, desk: Desk) -> Notice | None:
        missing = super().instead(desk)
        if missing is None and not self.rows(desk):
            return Notice(f"No template matches “{desk.needle(self.LIST)}”.", "Press Esc to show all.")
        return missing

    def rows(self, desk: Desk) -> list[Template]:
        wanted = desk.needle(self.LIST).casefold().split()
        found = [
            t
            for t in self._all(desk)
            if all(word in f"{t.name}\n{t.description}\n{_short(t)}".casefold() for word in wanted)
        ]
        return in_order(found, COLUMNS, self.order, lambda t: t.name.casefold())

    def show_body(self, desk: Desk) -> None:
        own = sum(not t.built_in for t in self._all(desk))
        self.head.put(Text(f"{len(self._all(desk)) - own} built in, {own} of your own", style=self.palette["label"]))
        self.show_rows(desk)
        self._show_facts(desk)

    def _show_facts(self, desk: Desk) -> None:
        template = self.template()
        self.facts.display = template is not None and self.size.height >= 18
        if template is not None:
            self.facts.put(
                figures(
                    [("template", template.name), ("about", template.description), ("says", _short(template))],
                    self.palette,
                )
            )

    def template(self) -> Template | None:
        """That of the cursor."""
        desk = self.view.desk
        return None if desk is None else next((t for t in self._all(desk) if t.name == self.table.cursor_key), None)

    def on_row_table_moved(self, _message: RowTable.Moved) -> None:
        if self.view.desk is not None:
            self._show_facts(self.desk)
            self.refresh_bindings()

    def on_row_table_opened(self, _message: RowTable.Opened) -> None:
        template = self.template()
        if template is None:
            return
        made = "every controller has it" if template.built_in else f"by {template.created_by or 'somebody'}"
        if template.created_at is not None:
            made += f", {template.created_at.astimezone():%Y-%m-%d %H:%M}"
        rows = [("template", template.name), ("about", template.description), ("made", made), *_settings(template)]
        text = figures(rows, self.palette, 18)
        text.append("\n\nWhat it doesn't say is as it is without a template.", style=self.palette["muted"])
        self.open(FactsWindow(self.view, f"template {shorten(template.name, _CELLS)}", text))

    # what may be done

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.view.desk is None:
            return super().check_action(action, parameters)
        who, template = self.console.who, self.template()
        writes = who is not None and who.administers and not who.read_only
        if action == "make":
            return writes and self.console.network is not None
        if action == "import_file":
            return writes
        if action == "export":
            return template is not None
        if action == "delete":
            return writes and template is not None and not template.built_in
        return super().check_action(action, parameters)

    def action_make(self) -> None:
        network = self.console.network
        if network is None:
            return
        settings = TemplateSettings.model_validate(settings_like(network))

        def wish(values: dict[str, Value]) -> Callable[[ControllerClient], Template]:
            made = TemplateCreate.model_validate(
                {"name": values["name"], "description": values["description"], "settings": settings}
            )
            return lambda client: client.template_create(made)

        fields = (Field("name", "Name", hint="letters, digits, . _ -"), Field("description", "About"))
        said = f"The settings of {shorten(network.name, _CELLS)} as they are now, by a name: networks are made by it with “New”."
        values: dict[str, Value] = {"name": "", "description": ""}
        self.open(FormWindow(self.view, "make a template", fields, values, wish, words=said, button="Make"), self._made)

    def _made(self, template: Template | None) -> None:
        self.read()
        if template is not None:
            self.notify(f"{template.name}: {_short(template)}.", markup=False)

    def action_export(self) -> None:
        template = self.template()
        if template is not None:
            said = "YAML, as `shadowmesh template import` and `apply` take it."
            window = FileWindow(
                "export a template", f"{file_name(template.name)}.yaml", said, (".yaml", ".yml", ".json")
            )

            def chosen(choice: tuple[Path, bool] | None) -> None:
                if choice is not None:
                    self._write(template.name, *choice)

            self.open(window, chosen)

    @work(group="act")
    async def _write(self, name: str, path: Path, replace: bool) -> None:
        def write(client: ControllerClient) -> bool:
            write_new(path, template_yaml(client.template_show(name)).encode(), replace=replace)
            return True

        await self.act(write, done=f"{shorten(escaped(str(path)), 120)}: written.", failed="Not written")

    def action_import_file(self) -> None:
        said = "YAML or JSON, as export writes it; templates of these names become as it says."
        self.open(TextWindow("read templates from", "", said), self._import)

    def _import(self, text: str | None) -> None:
        if text is not None:
            self._read_file(str(Path(text).expanduser()))

    @work(group="act")
    async def _read_file(self, file: str) -> None:
        def read(client: ControllerClient) -> list[str]:
            return [client.template_put(name, wish).name for name, wish in read_templates(file).items()]

        names = await self.act(read, failed="Not imported")
        self.read()
        if names:
            self.notify(f"Imported: {shorten(', '.join(names), 120)}.", markup=False)

    def action_delete(self) -> None:
        template = self.template()
        if template is not None:
            name = template.name
            question = (
                f"Delete the template {shorten(name, _CELLS)}? Networks that were made by it stay as they are; what makes networks by "
                "its name is refused from then on."
            )

            def answered(yes: bool | None) -> None:
                if yes:
                    self.do(lambda client: client.template_delete(name), done=f"{name}: deleted.", failed="Not deleted")

            self.open(ConfirmScreen(question), answered)
