"""The app's other hat: a controller is looked at and run. Which one, its screens, signing in; what is kept until the next run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.timer import Timer
from textual.worker import Worker

from shadowmesh.client_api import signin
from shadowmesh.client_api.offloop import in_thread
from shadowmesh.model.clock import Now
from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console import kept
from shadowmesh_tui.console.contexts import Context, contexts
from shadowmesh_tui.console.desk import Desk
from shadowmesh_tui.console.follower import Pace
from shadowmesh_tui.console.notices import line
from shadowmesh_tui.console.state import Wants
from shadowmesh_tui.console.table import Order
from shadowmesh_tui.help import keys_text
from shadowmesh_tui.screens.console import registry
from shadowmesh_tui.screens.console.base import COMMON_KEYS, AtDesk, ConsoleScreen, WindowAsked
from shadowmesh_tui.screens.console.contextswindow import ContextsWindow
from shadowmesh_tui.screens.console.signinwindow import SignInWindow
from shadowmesh_tui.screens.dialogs import ReadingScreen
from shadowmesh_tui.view import View
from shadowmesh_tui.widgets.consolebar import ConsoleBar

_TICK_S = 1.0


class ControllerHat(App[None]):
    """`data_dir`: of the controller of this host that is meant; `kept_in`: the file that holds what is kept, None: nothing is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "console", "Controller", show=False),
        Binding("C", "contexts", "Controllers", show=False),
        Binding("m", "machine", "This machine", show=False),
        *(Binding(str(n), f"tab('{n}')", show=False) for n in range(1, 10)),
    ]

    def __init__(
        self,
        clock: Callable[[], Now],
        *,
        data_dir: Path | None = None,
        kept_in: Path | None = None,
        pace: Pace | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.view = View()
        self.clock = clock
        self._data_dir, self._kept_in, self._pace = data_dir, kept_in, pace or Pace()
        self._kept = kept.load(kept_in)
        self._following: Worker[None] | None = None
        self._asked_to_sign_in = False
        self._tick: Timer | None = None
        self._offered: tuple[object, ...] = ()

    def changed(self) -> None:
        """Has the screens show what is known anew, soon."""
        raise NotImplementedError

    @property
    def desk(self) -> Desk | None:
        return self.view.desk

    @property
    def at_console(self) -> bool:
        """Whether a controller is on the screen."""
        return self.current_mode.startswith("console-")

    def add_console_modes(self) -> None:
        ConsoleScreen.TABS = staticmethod(registry.tabs)
        for entry in registry.SCREENS:
            self.add_mode(entry.mode, partial(entry.screen, self.view))
        self._tick = self.set_interval(_TICK_S, self._each_second)

    def _each_second(self) -> None:
        """What is said of time goes on, also when nothing happens."""
        if (
            self.at_console
            and self.desk is not None
            and (self.desk.console.failure is not None or self.desk.console.who is None)
        ):
            self.changed()

    # which controller

    def found_contexts(self) -> list[Context]:
        return contexts(self._data_dir)

    def first_context(self, *, machine_answers: bool, machine_meant: bool) -> Context | None:
        """What to begin with: None is this machine. `machine_meant`: who started the app named its daemon."""
        found = self.found_contexts()
        if self._data_dir is not None and found:
            return found[0]
        if machine_answers and machine_meant:
            return None
        last = next((c for c in found if c.key == self._kept.context), None)
        if last is not None:
            return last
        return None if machine_answers or not found or self._kept_in is None else found[0]

    def look_at(self, context: Context) -> None:
        """Opens it, in place of the one before, and shows it."""
        if self.desk is None or self.desk.context != context:
            self._close_desk()
            self._open_desk(context)
        assert self.desk is not None
        screen = self._kept.of(context.key).screen
        entry = next((e for e in registry.SCREENS if e.name == screen), registry.SCREENS[0])
        self.show_mode(entry.mode)

    def _open_desk(self, context: Context) -> None:
        desk = self.view.desk = Desk(context, self.clock, self.console_changed, self._pace)
        self._asked_to_sign_in = False
        before = self._kept.of(context.key)
        desk.looking.orders["clients"] = Order(before.sort, before.descending)
        if before.network is not None:
            desk.console.choose(before.network)
        self._following = self._follow_controller(desk)

    def _close_desk(self) -> None:
        desk = self.desk
        if desk is None:
            return
        self.keep()
        if self._following is not None:
            self._following.cancel()
        desk.close()
        self.view.desk = None

    @work(group="follow-controller")
    async def _follow_controller(self, desk: Desk) -> None:
        await desk.follower.run()

    def console_changed(self) -> None:
        self.changed()
        desk = self.desk
        if desk is None:
            return
        failure = desk.console.failure
        if failure is None:
            self._asked_to_sign_in = False
        elif failure.signed_out and not self._asked_to_sign_in and isinstance(self.screen, ConsoleScreen):
            self._asked_to_sign_in = True
            self.action_sign_in()
        offered = (
            tuple(registry.tabs(desk.console)),
            desk.console.who,
            tuple(desk.console.networks),
            desk.console.network,
        )
        if offered != self._offered and isinstance(self.screen, AtDesk):
            self._offered = offered  # the footer is made anew, which is dear, so only when what is offered changes
            self.screen.refresh_bindings()

    def keep(self) -> None:
        """Writes down what the next run begins with."""
        desk = self.desk
        self._kept.context = desk.context.key if desk is not None and self.at_console else None
        if desk is not None:
            of = self._kept.of(desk.context.key)
            order, network = desk.order("clients"), desk.console.network
            of.sort, of.descending = order.by, order.descending
            of.network = of.network if network is None else network.network_id
            if self.at_console:
                of.screen = self.current_mode.removeprefix("console-")
        kept.save(self._kept_in, self._kept)

    def end_console(self) -> None:
        """The app is ending."""
        with contextlib.suppress(Exception):
            self.keep()
        if self.desk is not None:
            self.desk.close()

    # what the keys do

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "tab":
            return self.at_console
        if action == "switch_mode":
            return not self.at_console
        return super().check_action(action, parameters)

    def show_mode(self, mode: str) -> None:
        if self.desk is not None:
            self.desk.follower.looking = mode.startswith("console-")
            entry = next((e for e in registry.SCREENS if e.mode == mode), registry.SCREENS[0])
            self.desk.follower.besides = entry.figures
            self.desk.want(entry.figures(self.desk.console))
        self.switch_mode(mode)

    def action_tab(self, key: str) -> None:
        if self.desk is None:
            return
        entry = next((e for e in registry.offered(self.desk.console) if e.key == key), None)
        if entry is not None and entry.mode != self.current_mode:
            self.show_mode(entry.mode)

    def on_console_bar_picked(self, message: ConsoleBar.Picked) -> None:
        self.action_tab(message.key)

    def action_machine(self) -> None:
        if self.at_console:
            self.keep()
            self.show_mode("dashboard")

    def action_console(self) -> None:
        """The controller that was looked at last, or the first that there is; without one, the choice."""
        if self.at_console:
            self.action_contexts()
        elif self.desk is not None:
            self.look_at(self.desk.context)
        else:
            found = self.found_contexts()
            if found:
                last = [c for c in found if c.key in self._kept.contexts]
                self.look_at(last[-1] if last else found[0])
            else:
                self.action_contexts()

    def action_contexts(self) -> None:
        if isinstance(self.screen, ModalScreen):
            return
        now = self.desk.context if self.desk is not None and self.at_console else None
        self.push_screen(ContextsWindow(self.found_contexts(), now, self.view.styles), self._context_chosen)

    def _context_chosen(self, choice: Any) -> None:
        if choice == "machine":
            self.action_machine()
        elif choice == "sign-in":
            self._ask_to_sign_in("", "")
        elif isinstance(choice, Context):
            self.look_at(choice)
        elif choice is not None:
            self._sign_out(choice[1])

    @work(group="sign-out")
    async def _sign_out(self, context: Context) -> None:
        try:
            await in_thread(partial(signin.logout, context.place))
        except ShadowMeshError as e:
            self.notify(line(e), title="Not signed out", severity="error", markup=False)
            return
        self.notify(f"Signed out of {context.name}.", markup=False)
        if self.desk is not None and self.desk.context == context:
            self._close_desk()
            self.switch_mode("dashboard")

    def action_sign_in(self) -> None:
        """To the controller that is looked at, again; or to another."""
        desk = self.desk
        again = desk is not None and self.at_console and desk.context.kind != "local"
        failure = desk.console.failure if desk is not None else None
        self._ask_to_sign_in(desk.context.place if again and desk else "", line(failure.error) if failure else "")

    def _ask_to_sign_in(self, url: str, why: str) -> None:
        if not isinstance(self.screen, ModalScreen):
            self.push_screen(SignInWindow(url, why), self._signed_in)

    def _signed_in(self, context: Context | None) -> None:
        if context is not None:
            self._close_desk()  # who is asked as has changed, be it the same controller
            self.look_at(context)

    def action_try_again(self) -> None:
        if self.desk is not None:
            self.desk.follower.try_again()
            self.desk.want(Wants(everything=True))

    def on_window_asked(self, message: WindowAsked) -> None:
        if message.then is None:
            self.push_screen(message.window)
        else:
            self.push_screen(message.window, message.then)

    # help and commands

    def console_help(self) -> Text | None:
        """Of the screen that is shown; None: it is none of a controller."""
        screen = self.screen
        if not isinstance(screen, AtDesk):
            return None
        return keys_text((*screen.KEYS, *COMMON_KEYS), self.view.styles)

    def action_console_help(self) -> bool:
        words = self.console_help()
        if words is None:
            return False
        name = self.screen.NAME if isinstance(self.screen, ConsoleScreen) else "this window"
        self.push_screen(ReadingScreen(f"help: {name}", words))
        return True

    def console_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield SystemCommand("Controllers", "Another controller, or this machine", self.action_contexts)
        if not self.at_console or self.desk is None:
            yield SystemCommand("Controller", "Networks and clients of a controller", self.action_console)
            return
        console = self.desk.console
        yield SystemCommand("This machine", "Its networks, peers and paths", self.action_machine)
        yield SystemCommand("Sign in", "To this controller again, or to another", self.action_sign_in)
        yield SystemCommand("Read anew", "Everything, now", self.action_try_again)
        for entry in registry.offered(console):
            yield SystemCommand(entry.name.capitalize(), entry.what, partial(self.action_tab, entry.key))
        if isinstance(screen, ConsoleScreen):
            yield from self._screen_commands(screen)
            for network in console.networks.values():
                choose = partial(self._choose_network, screen, network.network_id)
                yield SystemCommand(
                    f"Go to {network.name}", f"{network.clients_online} online, {network.subnet}", choose
                )

    @staticmethod
    def _screen_commands(screen: ConsoleScreen) -> Iterable[SystemCommand]:
        """What the screen's own keys do, as far as it is offered now."""
        for active in screen.active_bindings.values():
            binding = active.binding
            if active.node is screen and active.enabled and binding.description and "." not in binding.action:
                run = partial(screen.run_action, binding.action)
                yield SystemCommand(binding.description, f"key {binding.key_display or binding.key}", run)

    def _choose_network(self, screen: ConsoleScreen, network_id: str) -> None:
        screen.console.choose(network_id)
        screen.network_chosen()
