"""The benchmark suite: what the relay costs, beside peers, on the same machine in the same run.

busy_console  what callers feel of exports and log-ins on the console
command       `relay bench`: options and subcommands
export_log    exports of the request log of millions of calls, measured
fill_log      a request log of millions of calls, and how fast the console reads it
sessions      what a frame of a WebSocket session costs, beside an event of a stream
session       one call of it: chooses what to run, runs it, writes the report, compares
load          the load generator: calls at intended times, and what came back
targets       what is measured: the relay, a peer, the scripted upstream behind them
peers         the peers as data, and how each is set up
scenarios     what is asked, how often, and how a run goes
soak          hours of load, in which things go wrong: does anything grow, fail or drift?
report        from counts to figures, pages, tables, and the gate
micro         parts of the relay alone, without a load
"""
