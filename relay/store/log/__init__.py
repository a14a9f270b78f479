"""From the journal to the request log, and back out of it.

addresses  Where keys are used from, and which of these places nobody has seen them at before
files      The files of a journal: one folder per life of a worker, locked while it lives, and its
           segments
frames     The bytes of a journal segment, and their reader: a pure function from bytes to records
hours      What charts and filters of the console are answered by: sums by hour and day, and what
           failed
journal    The worker's own record of its calls: appended in memory, on disk a few milliseconds
           later
margins    What calls brought in and what they cost at their providers, by line, model and channel
partitions  The days of the request log and of what belongs to it: made ahead, listed, dropped
reports    What the request log answers: calls newest first, one call with its receipt, usage over
           time
rows       A call that ended as a row of the request log: within what its columns take, and in bytes
stirring   Waits until something is written below some folders, or a writer there dies
sums       What is folded from calls that ended: minutes of usage, what keys spent, where they were
           used
tail       One generation's journal, followed from where the request log has it to where its writer
           died
unended    Background responses whose worker has died: kept in Postgres until somebody knows how
           they ended
writer     Calls that ended become rows: the request log, what is folded from it, money, how far we
           read
"""
