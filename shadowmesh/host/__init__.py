"""This host's network by netlink: its interfaces, addresses, routes and rules, in whatever network namespace."""
