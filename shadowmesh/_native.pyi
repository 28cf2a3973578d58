"""The native pump (sources in `native/`); there only where it was built."""

def run(control_fd: int, table_fd: int) -> None:
    """Runs the pump until the other end of the control socket closes. Takes both descriptors over. Raises OSError."""
