"""One call from admission to settlement, over as many channels as it takes.

abandoned    Answers whose client has left, read to their end without it, because their provider
             bills them
admission    Who may do what: a call's key, its rights, its line and its price, out of one snapshot
asker        Asking one channel: an attempt is made, sent, heard to its end, and judged
balancer     What a worker knows of its channels, and the choice among them: health, load, retry
             budget
bugs         Where bugs of ours are told: so often that nobody can fill the log with one
call         A call while it lives: what is asked and by whom, how far it has come, what it has
             tried
channel_log  Where channels that go out of service and come back are told of: never so often as to
             fill a log
counters     What a worker counts: plain integers, bumped in the hot path, published once a second
deadlines    How long an attempt may be silent: by its channel, by its model, or as for all others
engine       All that the calls of one worker run through, but for sockets: what a new catalog means
             for them
exchange     One call from admission to settlement: the loop over attempts, and every way out of it
hedge        Hedging: a second channel is asked where the first one shows nothing for too long
kept_answer  What went out of a call's answer, read from what was kept of it
ports        What the flow needs of what is around it, beside relay.ports; see there
priced       Whether a call asks for nothing that its model has no price for: else refused by name,
             or cut
rejections   How many refused calls of an account are written down: enough to see what is wrong with
             them
request      What a client asks, in three values that a call is composed of
response     The client's side of one answer: its head, its framing, what was already said
running      The one clock of all running calls: deadlines, stalls, keep-alive comments, revoked
             keys
settle       The end of every call: what it used, what it costs, one record in the journal, once
splice       Whether and over which channel a broken stream can be carried on
tunnelled    Calls whose answers come over a socket that is not theirs alone: one response of a
             session each
witness      A second witness against a channel whose refusals say nothing: it is asked what needs
             no prompt
attempts/    One try on one channel, and how its answer goes out
reserve/     What a call takes before it may ask: tokens, permits, money
state/       What channels keep for clients: who has what, and how calls find it
translated/  Calls that are served by a channel of another dialect
"""
