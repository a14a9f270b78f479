"""One client's connection: from bytes to requests whose bodies are read.

arrivals      Requests that come all at once: begun in slices, so that what is under way goes on
              between them
body          Request bodies off a parser's stream: whole within bounds, or dropped within bounds
body_room     The memory that request bodies may take: of all of them, and of one account's or one
              address's
coming_body   A body on its way, behind a head that was read before: its pieces as the reads brought
              them
connection    One client connection: a leaner loop of requests around aiohttp's low-level handler
              and C parser
early         What a client sends before its turn: kept in order, handed out in pieces, and bounded
head          What the head of a request says: whom it is from, what it asks, how long it is
head_cache    The head of a connection's last request, remembered for those that begin alike
parser        aiohttp's request handler, by which a connection has its requests parsed
phase         How far a client's connection has come, and which way it may go from there
proxied       A connection that begins with the PROXY protocol: who its client is, from a trusted
              balancer
request_loop  The requests of one connection, one after the other: parsed, kept until their turn,
              served
socket        A client's socket: where a connection stands, and what of it outlasts its requests
"""
