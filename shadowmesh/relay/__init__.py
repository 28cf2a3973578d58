"""Blind forwarding: token check, quotas, counters, load reports."""
