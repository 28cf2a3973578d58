"""The fields of a network, a line each: label, what can be typed or chosen, and what is the matter with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Checkbox, Input, Select, Static

from shadowmesh_tui.console.forms import FIELDS, Field, Finding, Value, Values


class Box(Checkbox):
    """`[✓]` or `[ ]`: what it is set to doesn't hang on colour alone."""

    DEFAULT_CSS = """
    Box, Box:focus { padding: 0; border: none; background: transparent; background-tint: $foreground 0%; }
    Box > .toggle--button, Box.-on > .toggle--button { color: $foreground; background: $panel; }
    Box:focus > .toggle--button { color: $surface; background: $foreground; }
    Box:nocolor:focus > .toggle--button { text-style: bold reverse; }
    """

    @property
    def _button(self) -> Content:
        return Content.styled(f"[{'✓' if self.value else ' '}]", self.get_visual_style("toggle--button"))


class FieldRow(Horizontal):
    """`options` of a choice: value and words."""

    DEFAULT_CSS = """
    FieldRow { height: 1; }
    FieldRow > .label { width: 18; color: $text-muted; }
    FieldRow > Input { width: 1fr; max-width: 50; height: 1; border: none; padding: 0 1; background: $panel; }
    FieldRow > Input:focus { background: $foreground 20%; }
    FieldRow > Box { width: 5; }
    FieldRow > Select { width: 1fr; max-width: 50; height: 1; }
    FieldRow > .note { width: 1fr; min-width: 20; padding: 0 0 0 2; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    FieldRow > .note.-warning { color: $text-warning; }
    FieldRow > .note.-error { color: $text-error; }
    """

    def __init__(self, field: Field, value: Value, options: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__()
        self.field = field
        self.editor: Input | Checkbox | Select[str]
        if field.kind == "flag":
            self.editor = Box(value=bool(value), compact=True)
        elif field.kind == "choice":
            known = list(options) if any(v == value for v, _ in options) else [*options, (str(value), str(value))]
            self.editor = Select(
                [(Content(words), v) for v, words in known], value=str(value), allow_blank=False, compact=True
            )
        else:
            self.editor = Input(str(value), password=field.kind == "secret", compact=True)
        self.editor.id = f"field-{field.key}"
        self._note = Static(classes="note")

    def compose(self) -> ComposeResult:
        yield Static(self.field.label, classes="label")
        yield self.editor
        yield self._note

    @property
    def value(self) -> Value:
        value = self.editor.value
        if isinstance(value, bool):
            return value
        return value.strip() if isinstance(value, str) else ""

    def put(self, value: Value) -> None:
        if isinstance(self.editor, Checkbox):
            self.editor.value = bool(value)
        else:
            self.editor.value = str(value)

    def show(self, finding: Finding | None) -> None:
        self._note.set_class(finding is not None and finding.error, "-error")
        self._note.set_class(finding is not None and not finding.error, "-warning")
        mark = "" if finding is None else "✗ " if finding.error else "! "
        self._note.update(Content(f"{mark}{self.field.hint if finding is None else finding.text}"))


class NetworkForm(Vertical):
    """Posts `Changed` with each key that changes something."""

    DEFAULT_CSS = """
    NetworkForm { height: auto; }
    NetworkForm > .section { color: $text-primary; text-style: bold; margin-top: 1; }
    NetworkForm > .section.-first { margin-top: 0; }
    """

    class Changed(Message):
        """A field was."""

    def __init__(
        self, values: Values, options: Mapping[str, Sequence[tuple[str, str]]], *, keys: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.rows = {
            f.key: FieldRow(f, values[f.key], options.get(f.key, ())) for f in FIELDS if not keys or f.key in keys
        }

    def compose(self) -> ComposeResult:
        first = True
        for row in self.rows.values():
            if row.field.section:
                yield Static(row.field.section, classes="section -first" if first else "section")
                first = False
            yield row

    @property
    def values(self) -> dict[str, Value]:
        return {key: row.value for key, row in self.rows.items()}

    def put(self, values: Values) -> None:
        for key, row in self.rows.items():
            if row.value != values[key]:
                row.put(values[key])

    def show(self, findings: Mapping[str, Finding]) -> None:
        for key, row in self.rows.items():
            row.show(findings.get(key))

    def said_here(self, findings: Mapping[str, Finding]) -> str:
        """What is the matter with the field that has the focus, whole: beside it there may be too little room."""
        for key, row in self.rows.items():
            if row.editor.has_focus and key in findings:
                return f"{row.field.label}: {findings[key].text}."
        return ""

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Changed())

    def on_checkbox_changed(self, event: Checkbox.Changed) -> None:
        event.stop()
        self.post_message(self.Changed())

    def on_select_changed(self, event: Select.Changed) -> None:
        event.stop()
        self.post_message(self.Changed())
