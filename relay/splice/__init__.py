"""Carrying a broken stream on over another channel. Pure.

anchor          Going on by repeating: who takes no beginning of an answer is asked to say its end
                once more
continuation    The request that asks a channel to go on from what is already out
delivered       What went out to the client, kept unread until a stream breaks, and read then
gates           When a broken stream may be carried on over another channel, and in which way
gemini          Carries a broken stream of Gemini's on: its chunks go on where they were cut
messages        Carries a broken stream of Anthropic's on: its blocks go on where they were cut
overlap         The place where the text of one channel ends and that of another begins
response_items  What went out of a stream of `/v1/responses`: items, one behind the other, the last
                one open
response_seams  Where an item that one channel began is ended by another one's
responses       Carries a broken stream of `/v1/responses` on: its items go on where they were cut
rewrite         Carries a broken stream on: the events of the new channel, made those of the old
                stream
state           What a splice is to whoever feeds it, and how far it has come
"""
