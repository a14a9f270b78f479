"""Batches of Gemini's as their provider tells of them: how one stands, what all of it used.

    begun --> operation: name, metadata.state --> done: its answers, in the operation itself

What they used is told by the answers and by nothing else, as with other batches: an error in the
place of one costs nothing.

Source: Gemini API reference, Batch: GenerateContentBatch, BatchState, InlinedResponses; the
google-genai clients, which read `metadata.state` and `metadata.output`.
"""

from functools import partial
from typing import Final

from relay.decoding import Decoder, Undecodable
from relay.usage import NOTHING, Usage
from relay.wire.state.batches import BatchResults, Read
from relay.wire.state.shapes import ContentBatch, ContentOutput, EmbeddedText, InlinedResponse

MADE: Final = "SUCCEEDED"
_UNMADE: Final = frozenset({"FAILED", "CANCELLED", "EXPIRED"})

_batch = Decoder(ContentBatch)
_response = Decoder(InlinedResponse)
_embedded = Decoder(EmbeddedText)


def read_content_batch(body: bytes) -> ContentBatch:
    """Return what a provider says of a batch; all empty where it is none."""
    try:
        return _batch.decode(body)
    except Undecodable:
        return ContentBatch()


def begun_contents(body: bytes) -> str:
    """Return the id of a batch that goes on, "" where none does."""
    batch = read_content_batch(body)
    return batch.id if ended_contents(body) is None else ""


def ended_contents(body: bytes) -> Usage | Read | None:
    """Return what a batch used where that is nothing, what has to be summed up of it, or None.

    None: it has not ended, or that is no answer to go by.
    """
    batch = read_content_batch(body)
    failed = batch.state in _UNMADE or bytes(batch.error).startswith(b"{")
    if not batch.id or not (batch.done or failed or batch.state == MADE):
        return None
    output = batch.output
    if failed and output is None:
        return NOTHING
    return partial(_sum_up, output)


def _sum_up(output: ContentOutput | None, input_each: int) -> BatchResults:
    """Return the sum of answers that came with their batch; `told` is None where there are none."""
    embeds = output is not None and output.inlinedEmbedContentResponses is not None
    found = BatchResults("", None, None, input_each, wordless=embeds)
    answers = None if output is None else output.answers
    if answers is None:
        return found
    try:
        for raw in answers:
            response = bytes(_response.decode(raw).response)
            if not response.startswith(b"{"):
                continue
            tokens = _embedded.decode(response).tokens if embeds else 0
            if tokens:
                found.take_usage(Usage(input_tokens=tokens))
            else:
                found.take_answer(response)
    except Undecodable:
        return found  # what it holds is not known
    found.told = found.usage()
    return found
