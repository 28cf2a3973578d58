"""What all tests share: they can be interrupted, and proofs run only when they are asked for."""

import signal

import pytest

# A shell starts what runs in the background with SIGINT ignored, and what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out proofs, which take minutes to hours each (`make prove`), unless the -m expression or a test's own id names them."""
    if "prove" in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    proofs = [item for item in items if item.get_closest_marker("prove")]
    if proofs:
        items[:] = [item for item in items if item not in proofs]
        config.hook.pytest_deselected(items=proofs)
