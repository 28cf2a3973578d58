"""Which way to a peer, sans-I/O: candidates, punching, choosing, the NAT verdict."""
