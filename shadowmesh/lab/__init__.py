"""A whole internet on one machine: namespaces, NATs, faults, the demo."""
