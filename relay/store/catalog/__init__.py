"""The catalog in Postgres: stated by files, read by workers as one snapshot.

apply          `relay apply`: makes a declaration hold in Postgres, in one transaction
blocks         The blocklist and the allow-list in Postgres: entries are added, removed and
               explained
canonical      The canonical forms of what a catalog file may say: URLs, money, multipliers, names
channel_entry  `[[channel]]`: what a file says of an upstream, and what its kind fills in
declaration    A catalog declared in TOML: its tables as typed structs, each checked by itself
entry          What all tables of a catalog file have in common: how one is checked, plain types
follower       Keeps one process's snapshot in step with the catalog in Postgres, for as long as it
               runs
keys           API keys in Postgres: made, listed, switched off and on, deleted
listings       What the catalog's list commands show: rows of plain values, money as decimal strings
new_api        A new-api or one-api relay taken over: its channels, groups, prices, users and
               tokens
new_api_rows   What a new-api or one-api relay keeps, as rows: from its SQLite file, or from JSON of
               its tables
plan           What must change in the catalog so that a declaration holds: a diff of two catalogs
planned        Prices that will hold from a moment on: planned, announced, put into force once, or
               taken back
prices         A price as a catalog file writes it, and as bills are computed from it: both ways,
               exactly
read           The catalog of the database, read back in the form in which a file declares it
snapshot       The catalog as a worker holds it: whole at first, then only what changed
write          Writes the changes of a plan to the catalog's tables, one entry at a time
sale/          What is sold against what others have and ask: upstreams' lists, official prices
"""
