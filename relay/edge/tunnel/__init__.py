"""WebSocket sessions of clients: one socket, one call for each turn that it asks for.

client_socket    The client's socket under a session: what goes out over it, its room, its end
handshake        The opening of a session: whether it is one, and what it is answered
metered          The responses of a session of voice, each a call: paid, metered, settled
opening          Which channel a session of voice is held over, and the socket to it
ports            What a session asks of whoever serves its turns
session          One session: messages off its socket, turns in their lanes, and how it ends
sessions         All sessions of a worker: revoked, drained, and swept once a second
turn             One turn of a session: where its call writes to, and who hears of its end
turn_sockets     The WebSockets by which channels answer the turns of a session, where they speak it
upstream_socket  A WebSocket to an upstream: its handshake, its messages, its end
voice            One session of voice: frames pass both ways as they are, and what they cost is told
"""
