"""The screens of a controller, each a module by itself. `registry` names the main ones; windows are opened by the screens."""
