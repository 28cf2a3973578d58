"""One function per capability; takes an authorised principal."""
