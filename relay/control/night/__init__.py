"""What is done at night, and what cannot wait for one: housekeeping that no client notices.

archives   What an archive is: one file with the calls of one day, whole or not there at all
backups    Is there a back-up of this host that would help? Looked for where `[maintenance]` says
memory     Workers that grew are followed by new ones, one after the other; nobody's stream is cut
nights     The night: within the window of a zone, or when asked, each work in its turn; then it
           rests
parquet    The calls of a day as Parquet: typed columns, in groups of rows, one of them in memory
plans      The works of the night, as one host has them configured
retention  Days past their retention are dropped; before that, where asked for, kept in an
           archive
rewrap     Secrets under the key before are sealed anew, so that it can be thrown away
shapes     What the night is made of: works, each planned as steps when its turn comes
tables     VACUUM and ANALYZE where they pay, REINDEX CONCURRENTLY where an index is mostly air
upkeep     What cannot wait for a night that may be skipped: partitions ahead, credit of the dead
           set free
"""
