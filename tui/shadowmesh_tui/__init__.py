"""The terminal interface: screens and widgets over client_api."""
