"""The client process: runs Node and pump, the link to the controller, the local API, state on disk, host routes."""
