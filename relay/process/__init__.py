"""The processes: how they start, what they are made of, how they end.

child          One child process of the supervisor, from its birth to its end
composition    A worker's data plane, composed: the one place where its parts are made and told of
               each other
console        The console process, wired: the account's listener and the operator's socket file
control        The control process, wired: admin listener, shipper, upkeep, an eye on channels and
               on money
demo           The demonstration: a scripted upstream beside the relay and all it takes to call it
               at once
demo_upstream  The demonstration's scripted upstream, as a child of the supervisor
hardening      What a process that sees keys and prompts gives up before it sees the first one
launch         Bring the whole relay up in order, and down in the opposite one
lifeline       The one connection between the supervisor and a child: settings down, signs of life
               up
listeners      Listening sockets: opened once by the supervisor, before and beyond every worker
memory         What a worker does with memory that it frees: a bounded part stays, for the next body
site           A listener of aiohttp's on a socket that is there, in the clear or over TLS
slots          The places the supervisor keeps filled, and how patient it is with who fills them
supervisor     Keep the relay's processes running
systemd        Talk to systemd: readiness, status, watchdog
worker         A worker process, wired: settings and socket in, data plane up, drained out
succession/    How a supervisor becomes the next release, or its own next configuration
"""
