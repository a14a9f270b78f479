"""Hours of load on a relay to which things happen: does anything grow, fail or drift?

run      the load, and what it comes to
samples  how a target stands every so often, and whether that grows
faults   what goes wrong each minute, if asked to
night    the night's work in the middle
witness  which calls failed while a channel was well
"""
