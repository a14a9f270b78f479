"""OpenAI Responses, read and written. Pure.

answer_reader   An answer's events or body, told to a sink
answer_writer   An answer's events, or its body
items           The items of a response's output, as its events and its body show them
request_reader  A request's body, read into the middle form
request_writer  A request's body, written from the middle form
shapes          What is read of an answer, event by event or whole
"""
