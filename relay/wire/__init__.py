"""Bytes to values and back: HTTP, SSE, requests, usage, errors. Pure.

answer_shapes      What is read of an answer beside its usage: events of any dialect, and the error
                   in a body
api_keys           API keys: their form, their checksum, and the digest they are known by
asked              What a request asks for beside tokens: fields that cost more, tools of the
                   provider's own, media
blame              Whose fault an upstream's refusal is: one table of status and words, the first
                   row that fits
classify           Judgements on an answer's events: has it begun, is it whole, is this an error
client_ip          Whose address a call comes from: the socket's peer, or what trusted proxies say
                   of it
content_request    A JSON request whose path names the model (Gemini's): what is needed of it, and
                   its body anew
delivered_tokens   How many tokens an answer holds, where nobody says: from a stream's last events,
                   or a body
encodings          Encoded request bodies, decoded in pieces, so that neither a bomb nor a large
                   body can hurt
fault_body         What an upstream says instead of an answer, read from any shape that a provider
                   gives it
http               HTTP/1.1 heads, written by us in both directions and never passed through
identity           Our own identity, taken out of what a provider says to us before a client reads
                   it
model_lines        Which lines serve each model, told in a list of models of any dialect: a field
                   of our own
multipart          Multipart forms: the few text fields the relay needs, and the model's name
                   replaced in place
quota_headers      What an upstream's headers say about its own quota: when to come back, and
                   whether it is used up
request            A JSON request: what routing, limits and billing need of it, and its body for an
                   upstream
request_shapes     What is read of a JSON request
retry_headers      The headers by which official clients are told whether and when to come back
sse                Where server-sent events begin and end, as bytes
text_size          How much text a request holds, told from its bytes: what limits reckon with
                   before it runs
upstream_errors    What an upstream's refusal means, as an error that can be answered and held
                   against somebody
usage              What an answer used, found in its last bytes without decoding it
usage_claims       A usage object as an upstream wrote it, read however it is written: floats,
                   strings, odd parts
usage_conventions  The conventions by which providers count, brought into ours: one function each
usage_shapes       The shapes that usage has on the wire, by every name that a dialect gives to a
                   count
dialects/          What is said differently by each provider's API: one table for each dialect
"""
