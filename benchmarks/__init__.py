"""Measurements of the relay beside its peers; see README.md for the method."""
