"""Kinds of upstreams: what is known of each provider, as values.

address          Where a channel's endpoints and its list of models are, and in which header its
                 credential goes
claude           Claude at Vertex and Bedrock: requests as these want them, and Bedrock's answers
                 back
converse         Bedrock's Converse, for whatever model it has: requests of Anthropic's API said in
                 its words
converse_answer  Bedrock's Converse: its answers as Anthropic would have given them, whole and event
                 by event
event_stream     AWS event streams: frames in, messages out, every checksum looked at
listing          What an upstream lists: names, context and modalities, of any dialect's list
oauth            Credentials that are no key but something to get a token for: what is asked, what
                 is answered
presets          One row for each kind of upstream: what a channel of it need not say
sigv4            AWS Signature Version 4: a request signed as it stands, without a library
"""
