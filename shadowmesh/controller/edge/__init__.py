"""HTTP and WebSocket: parse, authenticate, call a service, turn errors into problem documents."""
