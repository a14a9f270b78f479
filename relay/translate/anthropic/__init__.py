"""Anthropic messages, read and written. Pure.

answer_reader   An answer's events or body, told to a sink
answer_writer   An answer's events, or its body
request_reader  A request's body, read into the middle form
request_writer  A request's body, written from the middle form
shapes          What is read of an answer, event by event or whole
"""
