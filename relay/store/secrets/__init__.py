"""Secrets at rest, and the references that name them.

desk   How a command asks the relay that runs for a secret that its own shell does not have
files  Secrets the relay makes for itself, once: files of mode 0600 in a folder of mode 0700
refs   Where a secret is, instead of the secret: `env:NAME`, `file:PATH`, `cred:NAME`
vault  Upstream credentials, encrypted at rest
"""
