"""A client's mind, sans-I/O: one Engine per network, one Node above them; emits pump commands."""
