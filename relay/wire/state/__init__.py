"""What a channel keeps, or alone can read: named in requests, learned from answers.

answered         What an answer makes: ids, and blobs that only their maker reads; found, not
                 decoded
batches          Batches: how one stands, what it has made, what all of it used
content_batches  Gemini's batches: the same of an operation that holds its answers
jobs             What a provider goes on with: where to ask how it stands, and how it has ended
loss             What a client is told whose state cannot be reached, and its request without that
                 state
marks            The names of such things: one short text for each, and those that a request holds
paths            The paths below which a provider keeps things, and what each of them asks for
shapes           What is read of such requests
"""
