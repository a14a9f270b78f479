"""WebSocket sessions of clients: one socket, one call for each turn that it asks for.

handshake  The opening of a session: whether it is one, and what it is answered
ports      What a session asks of whoever serves its turns
session    One session: messages off its socket, turns in their lanes, and how it ends
sessions   All sessions of a worker: revoked, drained, and swept once a second
turn       One turn of a session: where its call writes to, and who hears of its end
"""
