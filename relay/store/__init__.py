"""Postgres, Redis, the journal, the secrets: what outlives a call."""
