"""Calls that are served by a channel of another dialect (relay.translate): off the zero-copy path.

attempt     What both ways of carrying a translated answer have in common
conversed   An answer of Bedrock's Converse, told to its attempt as Anthropic would have given it
framing     The request that a translated attempt sends
kept        Thinking that upstreams signed, kept between a call of a function and its result
plain       A translated answer in one piece
plan        What one call is in the dialects of the channels that do not speak its own
retold      Refusals of an upstream, told in the client's dialect
stream      A translated stream: events in, events out
translator  Makes plans: before a call takes anything, or when its own channels are out
upstreams   What is known of the server behind a channel, as far as a request to it depends on it
"""
