"""Verbs: parse, call, print. No logic."""
