"""ShadowMesh: private networks that a team runs itself, from the terminal."""

__version__ = "0.3.0.dev0"
