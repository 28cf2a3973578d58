"""What the screens of a controller share: title, banner, footer, what isn't offered, and how something is done there.

A main screen is a subclass of `ConsoleScreen` (or `ListScreen`, for a list) and has a line in `registry`; a window over it is one of
`ConsoleWindow`. Both have `desk` (what is known, and `desk.call` to ask), `may` and `act`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Footer, Input

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.api import Permission
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.notices import banner, instead_of_all, line
from shadowmesh_tui.console.state import Console, Wants
from shadowmesh_tui.console.table import Column, Order
from shadowmesh_tui.notices import Notice
from shadowmesh_tui.screens.base import LiveScreen
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.bars import Banner
from shadowmesh_tui.widgets.consolebar import ConsoleBar, Tab
from shadowmesh_tui.widgets.notice import NoticePane
from shadowmesh_tui.widgets.rowtable import RowTable

T = TypeVar("T")
R = TypeVar("R")
Keys = Sequence[tuple[str, str]]

CONSOLE_BINDINGS: list[BindingType] = [
    Binding("n", "network(1)", "Network", show=False),
    Binding("N", "network(-1)", "Previous network", show=False),
    Binding("L", "app.sign_in", "Sign in", show=False),
    Binding("R", "app.try_again", "Try again", show=False),
    Binding("question_mark", "app.help", "Help"),
    Binding("q", "app.quit", "Quit"),
]
COMMON_KEYS: Keys = (
    ("1 … 9", "the screens of the controller"),
    ("n  N", "next network, the one before"),
    ("C", "another controller, or this machine"),
    ("m", "this machine"),
    ("L", "sign in again"),
    ("R", "read everything anew, or try again now"),
    ("Ctrl+P", "all commands, and the choice of colours"),
    ("q", "quit"),
)


class WindowAsked(Message):
    """This window is to be opened; `then` gets what it was closed with."""

    def __init__(self, window: ModalScreen[Any], then: Callable[[Any], None] | None = None) -> None:
        self.window, self.then = window, then
        super().__init__()


class AtDesk(LiveScreen):
    """A screen or window that shows a controller and does things there."""

    KEYS: ClassVar[Keys] = ()

    @property
    def desk(self) -> Desk:
        assert self.view.desk is not None
        return self.view.desk

    @property
    def console(self) -> Console:
        return self.desk.console

    def may(self, needed: Permission, network_id: str | None = None) -> bool:
        """In this network, or in the chosen one."""
        chosen = self.view.desk.console.network if self.view.desk is not None else None
        network_id = network_id or (chosen.network_id if chosen is not None else None)
        return self.view.desk is not None and network_id is not None and self.console.may(needed, network_id)

    def show(self) -> None:
        if self.view.desk is not None and self.is_attached:
            self.show_desk(self.desk)

    def show_desk(self, desk: Desk) -> None:
        """Shows what is known now."""
        raise NotImplementedError

    async def act(
        self, function: Callable[[ControllerClient], T], *, done: str = "", failed: str = "", wants: Wants | None = None
    ) -> T | None:
        """Has it done; says so, or why not. None if it failed (or returned that). `wants`: what is to be read afterwards."""
        desk = self.desk
        try:
            result = await desk.call(function)
        except ShadowMeshError as e:
            self.notify(line(e), title=failed or "Not done", severity="error", markup=False, timeout=12)
            return None
        finally:
            if wants is not None:
                desk.want(wants)
        if done:
            self.notify(done, markup=False)
        return result

    def open(self, window: ModalScreen[Any], then: Callable[[Any], None] | None = None) -> None:
        self.post_message(WindowAsked(window, then))


class ConsoleScreen(AtDesk):
    """A main screen. `NAME`: of its tab and mode; `tabs` is set by the app."""

    NAME: ClassVar[str] = ""
    OF_NETWORKS: ClassVar[bool] = True  # it has something to show once there is a network
    TABS: ClassVar[Callable[[Console], Sequence[Tab]]] = lambda _console: ()

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._bar, self._banner, self._notice = ConsoleBar(), Banner(), NoticePane()
        self._body = Vertical(id="body")

    def compose(self) -> ComposeResult:
        yield self._bar
        yield self._banner
        yield self._notice
        with self._body:
            yield from self.body()
        yield Footer(show_command_palette=False)

    def body(self) -> ComposeResult:
        raise NotImplementedError

    def show_desk(self, desk: Desk) -> None:
        self._bar.show(desk, ConsoleScreen.TABS(desk.console), self.NAME, self.palette)
        self._banner.show(banner(desk.console, desk.now()))
        notice = instead_of_all(desk.console, desk.now(), of_networks=self.OF_NETWORKS) or self.instead(desk)
        self._notice.display, self._body.display = notice is not None, notice is None
        if notice is not None:
            self._notice.show(notice, self.palette)
            if self.focused is not None and self._body in self.focused.ancestors:
                self.set_focus(None)
        else:
            self.show_body(desk)

    def instead(self, desk: Desk) -> Notice | None:
        """What stands in the place of the body."""
        return None

    def show_body(self, desk: Desk) -> None:
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "network":
            return self.view.desk is not None and len(self.console.networks) > 1
        return True

    def action_network(self, step: int) -> None:
        self.console.step_network(step)
        self.network_chosen()

    def network_chosen(self) -> None:
        """Another one was: its clients are read."""
        self.desk.want(Wants())
        self.refresh_bindings()
        self.show()


class FilteredScreen(ConsoleScreen):
    """A main screen with a line in which one types what is looked for. `LIST` names what is looked through; subclasses yield `filter`
    in their body, and say where the focus is without it."""

    LIST: ClassVar[str] = ""
    PLACEHOLDER: ClassVar[str] = "words that a line contains; Enter keeps, Esc clears"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear_filter", "Show all"),
    ]
    DEFAULT_CSS = """
    FilteredScreen .filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    FilteredScreen .filter.-shown { display: block; }
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.filter = Input(placeholder=self.PLACEHOLDER, classes="filter", compact=True)

    @property
    def list_name(self) -> str:
        """Of the list that is looked at, by which its order and filter are kept."""
        return self.LIST

    def focus_body(self) -> None:
        raise NotImplementedError

    def show_filter(self, desk: Desk) -> None:
        """What was looked for before stands there again."""
        needle = desk.needle(self.list_name)
        if needle and not self.filter.has_class("-shown"):
            self.filter.value = needle
            self._filter_shown(True)
        if self.focused is None and self.app.screen is self:
            self.focus_body()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if self.focused is None:
            self.focus_body()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "clear_filter":
            return self.filter.has_class("-shown")
        return super().check_action(action, parameters)

    def _filter_shown(self, shown: bool) -> None:
        self.filter.set_class(shown, "-shown")
        self.refresh_bindings()

    def action_filter(self) -> None:
        if self._body.display:
            self._filter_shown(True)
            self.filter.focus()

    def action_clear_filter(self) -> None:
        self.filter.value = ""
        self._filter_shown(False)
        self.focus_body()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input is self.filter and self.view.desk is not None:
            self.desk.looking.needles[self.list_name] = event.value.strip()
            self.show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input is self.filter:
            if not event.value.strip():
                self.action_clear_filter()
            else:
                self.focus_body()


class ListScreen(FilteredScreen, Generic[R]):
    """A main screen with a list: order, filter as one types, marks. Subclasses give its rows."""

    ORDER: ClassVar[Order] = Order()  # as long as nobody chose another
    OPENS: ClassVar[bool] = True  # a line is opened with Enter
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort_next", "Sort", show=False),
        Binding("S", "sort_reverse", "Reverse", show=False),
    ]

    def __init__(
        self,
        view: View,
        columns: Sequence[Column[R]],
        key: Callable[[R], str],
        marked: Callable[[R], bool] | None = None,
    ) -> None:
        super().__init__(view)
        self.columns = columns
        self.table: RowTable[R] = RowTable(columns, key, marked, opens=self.OPENS)

    def rows(self, desk: Desk) -> Sequence[R]:
        """In order, filtered."""
        raise NotImplementedError

    def focus_body(self) -> None:
        self.table.focus()

    def show_rows(self, desk: Desk) -> None:
        self.table.set_class(desk.console.failure is not None, "-stale")
        self.table.show(self.rows(desk), self.order, self.palette)
        self.show_filter(desk)

    # order

    @property
    def order(self) -> Order:
        return self.desk.looking.orders.get(self.list_name, self.ORDER)

    def on_row_table_sort_pressed(self, message: RowTable.SortPressed) -> None:
        self._sort(self.order.pressed(message.column))

    def action_sort_next(self) -> None:
        self._sort(self.order.next(self.columns))

    def action_sort_reverse(self) -> None:
        order = self.order
        column = next((c for c in self.columns if c.key == order.by), None)
        if column is not None:
            self._sort(order.pressed(column))

    def _sort(self, order: Order) -> None:
        self.desk.looking.orders[self.list_name] = order
        self.show()


class ConsoleWindow(AtDesk, ModalScreen[T], Generic[T]):
    """A window over a main screen; Esc closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close")]

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
