"""What each role can be told: its settings, their types and meanings, and where values come from.

A role's configuration is a tree of frozen dataclasses (`controllerconfig`, `clientconfig`, `relayconfig`); each field says what it
is (`setting`). The YAML file, the environment and the command line are read by that alone (`resolving`), so that a key has one
name, one type and one sentence everywhere. Nothing here acts on a setting: the roles do.
"""
