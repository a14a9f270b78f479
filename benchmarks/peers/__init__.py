"""Peers that are measured beside the relay in the same run."""
