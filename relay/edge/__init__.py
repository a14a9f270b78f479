"""The client's side of a call: connections, heads, bodies, answers.

answers     Whole answers of our own: errors, model lists, greetings
body        Request bodies off a parser's stream: whole within bounds, or dropped within bounds
body_room   The memory that request bodies may take: of all of them, and of one account's or one
            address's
connection  One client connection: a leaner loop of requests around aiohttp's low-level handler and
            C parser
cors        What lets web pages of other origins call the relay, where the operator wants that
early       What a client sends before its turn: kept in order, handed out in pieces, and bounded
head        What the head of a request says: whom it is from, what it asks, how long it is
head_cache  The head of a connection's last request, remembered for those that begin alike
ids         The ids that requests are known by
parser      aiohttp's request handler as what a connection lets its requests be parsed by
phase       How far a client's connection has come, and which way it may go from there
ports       What a connection asks of whoever answers its requests (edge.service)
question    A request's body: read for what routing and billing need, framed anew for each channel
routes      Which path is what: exact paths only, never built from, never passed on
server      The data plane of one worker, wired: listener in front, flow in the middle, upstreams
            behind
service     One request from its head to its answer: route, key, body, rights, then the exchange
socket      A client's socket: where a connection stands, and what of it outlasts its requests
"""
