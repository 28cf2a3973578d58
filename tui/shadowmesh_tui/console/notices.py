"""What the screens of a controller say when something is missing, or needs a word. Pure."""

from __future__ import annotations

from shadowmesh.model.errors import ShadowMeshError
from shadowmesh_tui.console.state import Console
from shadowmesh_tui.notices import Notice, sentence
from shadowmesh_tui.text import duration


def banner(console: Console, now: float) -> Notice | None:
    """The one line above all: why what is shown may be old."""
    failure = console.failure
    if failure is None or console.who is None:
        return None
    old = (
        "" if console.seen_at is None else f" Shown is what was known {duration(max(0.0, now - console.seen_at))} ago."
    )
    if failure.signed_out:
        return Notice(f"{sentence(failure.error.what)}{old}", "Press L to sign in again.", "error")
    return Notice(f"{sentence(failure.error.what)}{old}", _next_try(failure.next_try, now), "error")


def _next_try(at: float | None, now: float) -> str:
    return "" if at is None else f"Next try in {duration(max(0.0, at - now))}."


def instead_of_all(console: Console, now: float, *, of_networks: bool = True) -> Notice | None:
    """What stands where all else would be, when there is nothing to show. `of_networks`: all else is about networks."""
    failure = console.failure
    if console.who is None:
        if failure is None:
            return Notice("Asking the controller …", "")
        if failure.signed_out:
            return Notice(sentence(failure.error.what), "Press L to sign in, C for another controller.", "error")
        return Notice(
            sentence(failure.error.what),
            f"{sentence(failure.error.remedy)}\n{_next_try(failure.next_try, now)} C shows other controllers.",
            "error",
        )
    if of_networks and not console.networks:
        if console.may_create:
            return Notice("There is no network yet.", "Press + to make the first one.")
        return Notice(
            f"{console.who.name} has a role in no network.",
            "Who owns one gives you a role in it:\nshadowmesh member add NETWORK ADDRESS --role member",
        )
    return None


def line(error: ShadowMeshError) -> str:
    """An error as one line with its remedy."""
    what = sentence(error.what)
    return f"{what} {sentence(error.remedy)}" if error.remedy else what
