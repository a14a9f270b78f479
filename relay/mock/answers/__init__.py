"""What the scripted upstream answers: one module an endpoint, and the texts they share.

answer      What the mock says, before it is put on the wire: events, each with the tokens it
            carries
chat        Chat completions and completions, whole and streamed, in OpenAI's shapes
media       The endpoints beside text: embeddings, moderations, rerank, images, speech,
            transcriptions
messages    Anthropic's dialect: Messages, whole and streamed, and the counting of tokens
render      From a question to its answer: one renderer for each endpoint, and the list of models
repertoire  What the mock says to a question when nothing is made to go wrong, kept ready for the
            next time
responses   The Responses API: one JSON object, or the full sequence of typed events
"""
