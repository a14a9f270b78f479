"""Honest translation between OpenAI chat, Anthropic, Gemini and OpenAI Responses. Pure.

What one dialect says goes through one middle form, never from pair to pair. What a dialect
cannot say is refused by the name of the field, or listed as dropped where the answer would be
the same without it: docs/translation.md is the table of it all. What an upstream signed of its
thinking is given to the caller to keep by call id, and asked back when the next turn comes.

    client's request --reader--> Ask --writer--> upstream's request      translate_request
    client's stream <--writer-- calls on a sink <--reader-- upstream's   StreamTranslator
    client's answer <--writer-- Collected       <--reader-- upstream's   translate_answer
    client's error  <--writer-- Trouble         <--reader-- upstream's   translate_error

answer         The middle form of an answer: calls on a sink, in the order that things were said
answers        An upstream's answer in the client's dialect: a stream event by event, or a body
collected      A whole answer in the middle form: what a JSON answer is written from
counting       Counts of tokens before anything is generated: asked in one dialect, told in another
counts         Usage in each dialect's words
embedding      Embeddings: asked in OpenAI's words or Gemini's, told in the other's
fields         Members of a decoded JSON object; a wrong type is refused by the member's name
idents         Ids of calls that the dialect they go to takes
kept           Records of an upstream's thinking, kept between a call and its result
middle         The middle form of a request: its nouns
openai_common  What OpenAI's two dialects, chat and Responses, write in the same way
requests       One request from one dialect to another: read, put in order, written
schemas        JSON Schemas, where a dialect takes less of them than others
stop_cut       Ends an answer at a stop sequence that the upstream could not be told of
troubles       Errors: read from any dialect's body, written into any
ways           Which channels reach which endpoints by translation
anthropic/     Anthropic messages, read and written
chat/          OpenAI chat completions, read and written
gemini/        Gemini generateContent, read and written
responses/     OpenAI Responses, read and written
"""

from relay.translate.answer import AnswerTerms, Trouble, truncated
from relay.translate.answers import StreamTranslator, TranslatedAnswer, translate_answer
from relay.translate.middle import Refused, TranslateDialect, Upstream
from relay.translate.requests import TranslatedRequest, path_of, translate_request
from relay.translate.troubles import read_error, translate_error, write_error

__all__ = [
    "AnswerTerms",
    "Refused",
    "StreamTranslator",
    "TranslateDialect",
    "TranslatedAnswer",
    "TranslatedRequest",
    "Trouble",
    "Upstream",
    "path_of",
    "read_error",
    "translate_answer",
    "translate_error",
    "translate_request",
    "truncated",
    "write_error",
]
