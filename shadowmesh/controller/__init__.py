"""The management plane: HTTP and WebSocket at the edge, services inside, store below."""
