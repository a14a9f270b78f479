"""The client's side of a call: connections, heads, bodies, answers.

answers   Whole answers of our own: errors, model lists, greetings
cors      What lets web pages of other origins call the relay, where the operator wants that
door     The door of a worker: which addresses get in, how many connections they have, what they
         may ask
ids       The ids that requests are known by
pages     What is no call to a model: the list of models, and one of them
ports     What a connection asks of whoever answers its requests (edge.service)
question  A request's body: read for what routing and billing need, framed anew for each channel
routes    Which path is what: exact paths only, never built from, never passed on
server    The data plane of one worker behind its listener, whose connections and descriptors it
          counts
shutter   Addresses whose new connections the kernel drops for a moment, before they cost us
          anything
service   One request from its head to its answer: route, key, body, rights, then the exchange
client/   One client's connection: from bytes to requests whose bodies are read
overload/  More calls than a worker can carry: found where lateness stands, refused cheaply
tunnel/   WebSocket sessions of clients: one socket, one call for each turn that it asks for
"""
