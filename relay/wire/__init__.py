"""Bytes to values and back: HTTP, SSE, requests, usage, errors. Pure.

answer_shapes  What is read of an answer beside its usage: events of any dialect, and the error in a
               body
api_keys       API keys: their form, their checksum, and the digest they are known by
classify       Judgements on an answer's events: has it begun, is it whole, is this an error
client_ip      Whose address a call comes from: the socket's peer, or what trusted proxies say of it
http           HTTP/1.1 heads, written by us in both directions and never passed through
model_lines    Which lines serve each model, told in a list of models of any dialect: a field of our
               own
packet_filter  A filter that has the kernel drop what comes from some addresses: a program in
               classic BPF
proxy_protocol  The PROXY protocol, versions 1 and 2: a balancer tells who its client is
retry_headers  The headers by which official clients are told whether and when to come back
sse            Where server-sent events begin and end, as bytes
websocket      WebSocket frames: bytes to messages and back, and the opening handshake
dialects/      What is said differently by each provider's API: one table for each dialect
kinds/         Kinds of upstreams: what is known of each provider, as values
refusals/      What an upstream says instead of an answer, and whose fault it is. Pure
request/       A request's body: what is read of it, and what an upstream gets of it. Pure
state/         What a channel keeps, or alone can read: named in requests, learned from answers
turns/         Turns of a WebSocket session: the frames that begin one, and what is told of it
usage/         What an answer used: found in its bytes, read however it is written, counted our way.
               Pure
"""
