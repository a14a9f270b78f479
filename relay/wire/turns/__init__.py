"""Turns of a WebSocket session: the frames that begin one, and what is told of it. Pure.

asked            Asking an upstream over its WebSocket: requests to frames, and frames to what HTTP
                 would bring
context          What a turn was asked and answered, so that the next one can be asked of any
                 channel
frames           Frames to requests, and events and errors to frames
realtime         Events of sessions of voice: which of them cost something, and what they say of it
realtime_shapes  What is read of the events of a session of voice
shapes           What is read of a frame
"""
