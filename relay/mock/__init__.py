"""A scripted upstream: for the demonstration, for tests and for benchmarks.

batches      Files and batches of the scripted upstream
faults       The faults by name: what can be told to go wrong, and how it changes what is said
options      What a scripted upstream can be told at its start
plan         How an answer goes onto the wire: a head, frames in order, and what happens after the
             last one
player       Plays a plan onto a transport: paced or as fast as the client takes it, and ends it as
             told
protocol     One client connection of the mock: requests off the socket, answers played onto it
question     A request as the scripted model sees it: what is asked, in which shape, how far to go
record       What a mock served, kept by itself: an oracle for tests of billing and of aborts
rejections   Refusals as providers and the CDNs in front of them word them, by status
script       The scripted model: its answer is a pure function of what the user said last
server       The listening side of the mock: a port that can be closed and opened again while it
             runs
service      What the mock answers to each request: routes, credentials, faults, and the control
             paths
wire_faults  Faults of the wire: what an upstream can do wrong once it knows what to say
answers/     What the scripted upstream answers: one module an endpoint, and the texts they share
"""
