"""Lists of which no event tells: what a screen reads for itself when it is looked at, after what was done, and from time to time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from textual import work
from textual.timer import Timer

from shadowmesh.client_api.rest import ControllerClient
from shadowmesh.model.errors import Kind, ShadowMeshError
from shadowmesh_tui.console.desk import Desk, Fetched
from shadowmesh_tui.notices import Notice, sentence
from shadowmesh_tui.screens.console.base import ListScreen
from shadowmesh_tui.widgets.lines import Lines

R = TypeVar("R")
T = TypeVar("T")
Doing = Callable[[ControllerClient], Any]


class FetchingScreen(ListScreen[R], Generic[R]):
    """Subclasses say what is read now (`what`, `asks`) and keep what came (`take`); `head` is the line above the list."""

    EVERY_S: ClassVar[float] = 10.0
    DEFAULT_CSS = """
    FetchingScreen > #body > .head { height: 1; padding: 0 1; margin-top: 1; }
    FetchingScreen .facts { height: auto; border-top: solid $foreground 25%; padding: 0 1; }
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.head, self.facts = Lines(), Lines()
        self.head.add_class("head")
        self.facts.add_class("facts")
        self._clock: Timer | None = None
        self._under_way = 0

    def on_mount(self) -> None:
        self._clock = self.set_interval(self.EVERY_S, self.read_if_seen)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.read()

    def network_chosen(self) -> None:
        super().network_chosen()
        self.read()

    # reading

    @property
    def what(self) -> str:
        """The name of what is read now; empty: nothing is."""
        raise NotImplementedError

    def asks(self, desk: Desk) -> Callable[[ControllerClient], Any]:
        """What is to be asked off the loop. What it returns is made of models, lists and dicts."""
        raise NotImplementedError

    def take(self, fetched: Fetched[Any], answer: Any) -> bool:
        """Keeps it. Whether there is more to be read at once."""
        fetched.take(answer)
        return False

    def fetched(self, desk: Desk) -> Fetched[Any]:
        return desk.fetched.setdefault(self.what, Fetched())

    def read_if_seen(self) -> None:
        """A window may be over it. What takes longer than that isn't begun anew."""
        if self in self.app.screen_stack and not self._under_way:
            self.read()

    def read(self) -> None:
        desk = self.view.desk
        if desk is not None and desk.console.who is not None and self.what:
            self._read(desk)

    @work(group="fetch", exclusive=True)
    async def _read(self, desk: Desk) -> None:
        self._under_way += 1
        try:
            while await self._read_once(desk):
                pass
        finally:
            self._under_way -= 1

    async def _read_once(self, desk: Desk) -> bool:
        """Whether there is more."""
        what, more, fetched = self.what, False, self.fetched(desk)
        try:
            answer = await desk.call(self.asks(desk))
        except ShadowMeshError as e:
            fetched.error = e
        else:
            if what == self.what and desk is self.view.desk:
                more = self.take(fetched, answer)
        self.show()
        self.refresh_bindings()
        return more

    @work(group="act")
    async def do(self, function: Doing, *, done: str = "", failed: str = "") -> None:
        """Has it done, says how that went, and reads anew."""
        await self.act(function, done=done, failed=failed)
        self.read()

    # what is shown

    def show_desk(self, desk: Desk) -> None:
        if self.what and self.what not in desk.fetched and desk.console.who is not None and self.is_current:
            desk.fetched[self.what] = Fetched()
            self._read(desk)  # it has just become known who asks
        super().show_desk(desk)

    def instead(self, desk: Desk) -> Notice | None:
        fetched = self.fetched(desk)
        if fetched.value is not None:
            return None
        if fetched.error is None:
            return Notice("Reading …", "")
        if fetched.error.kind is Kind.UNREACHABLE:
            return Notice("Nothing has been read yet.", "")
        return Notice(sentence(fetched.error.what), sentence(fetched.error.remedy), "error")
