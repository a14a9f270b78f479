"""Peers that are measured beside the relay in the same run: a table, and how each is started."""
