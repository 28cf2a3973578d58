"""The screens: they hand the mesh's state to their widgets and turn keys into actions."""
