"""The typed client of the controller's REST/WebSocket API and of the daemon's socket."""
