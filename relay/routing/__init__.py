"""Decisions as tables and functions: which channel, what next, what health. Pure."""
