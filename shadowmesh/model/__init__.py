"""What things are: ids, keys, addresses, invites, network maps, policy, events. Data only, no I/O, no clock."""
