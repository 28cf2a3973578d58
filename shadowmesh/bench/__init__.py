"""Measuring between two hosts through the mesh: a listener, a client, and senders that don't become the bottleneck."""
