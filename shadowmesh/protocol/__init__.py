"""What goes over the wire, sans-I/O: WireGuard handshake, cookies, disco, STUN, relay frames, signatures."""
