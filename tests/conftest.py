"""What all tests share: they can be interrupted, are told apart by what they take, and look for garbage among what is new only."""

import gc
import signal

import pytest
import structlog

# A shell starts what runs in the background with SIGINT ignored, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# With rich's, each failure that a test provokes would be printed for 100 ms.
structlog.get_config()["processors"][-1].exception_formatter = structlog.dev.plain_traceback

# The fixtures by which a test has a running controller (`template`, `there`), the running app (`state_dir`) or the program as a process.
WHOLE = {"template", "there", "state_dir", "process"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out proofs, which take minutes to hours each (`make prove`), unless the -m expression or a test's own id names them.

    What is slow begins first, or at the end all workers would wait for it.
    """
    for item in items:
        fixtures = {*getattr(item, "fixturenames", ())}
        group = item.get_closest_marker("xdist_group")
        if WHOLE & fixtures or ("controller" in fixtures and group is not None and group.args == ("controller",)):
            item.add_marker("whole")
    items.sort(key=lambda item: (turn(item), item.get_closest_marker("slow") is None))
    if "prove" in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    proofs = [item for item in items if item.get_closest_marker("prove")]
    if proofs:
        items[:] = [item for item in items if item not in proofs]
        config.hook.pytest_deselected(items=proofs)


def turn(item: pytest.Item) -> int:
    """Tests of a lower turn run before those of a higher one."""
    return next((mark.args[0] for mark in item.iter_markers("turn")), 0)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: to look through it for garbage again and again is a good part of a short test's time."""
    gc.collect()
    gc.freeze()
