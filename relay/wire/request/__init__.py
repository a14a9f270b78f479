"""A request's body: what is read of it, and what an upstream gets of it. Pure.

asked            What a request asks for beside tokens: fields that cost more, tools of the
                 provider's own, media
content_request  A JSON request whose path names the model (Gemini's): what is needed of it, and its
                 body anew
encodings        Encoded request bodies, decoded in pieces, so that neither a bomb nor a large body
                 can hurt
json_request     A JSON request: what routing, limits and billing need of it, and its body for an
                 upstream
multipart        Multipart forms: the few text fields the relay needs, and the model's name replaced
                 in place
shapes           What is read of a JSON request
text_size        How much text a request or an answer holds, told from its bytes: no tokenizer, no
                 decoding
"""
