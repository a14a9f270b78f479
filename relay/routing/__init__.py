"""Whom to ask, and what to do next: decisions as tables and functions. Pure.

affinity  Which channel has a session's prompt cache, and what it would cost to leave it there
breaker   One breaker: when a channel's model is left alone, and when it is tried again
budget    How hard a call is tried, and how hard all calls of a worker together may be retried
finding   What workers tell each other about a breaker, and how it is written
health    The health of every (channel, model) that this worker knows, shared with the other workers
overview  What the workers together say of the channels' health: for lists, metrics and alarms, no
          calls
patience  How long silence may last before it says something: told from how long answers really take
pick      Which channel a call goes to
policy    What counts against a channel, when its breaker opens for it, and for how long
table     What to do when an attempt fails: one table over how far it came and what happened to it
"""
