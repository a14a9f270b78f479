"""What a host serves from while Postgres is away: copies on its own disk.

balances  What each account may spend, so that no call is refused only because nobody can be asked
catalog   The whole catalog, upstream credentials sealed as they are in Postgres
checked   Files that are whole or not there: written aside, synced, renamed, with a checksum
fleet     How many workers share the limits, for those who start without Redis
"""
