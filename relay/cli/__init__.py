"""The relay command."""
