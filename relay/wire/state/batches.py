"""Batches as providers tell of them: how one stands, what it has made, what all of it used.

    begun --> object: status --> ended: its results --line by line--> counts, summed up

A batch is charged by its results and by nothing else: a request that failed, was cancelled or has
expired has no answer in them, and costs nothing; those that were served before a cancellation have
one, and are charged. What a provider tells of the sum by itself stands in where its results are not
there any more.

Source: OpenAI API reference, Batch: the object, the output file; Anthropic, Message Batches:
results, "You are not charged for errored, canceled or expired requests".
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import quote

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import ChannelGarbled
from relay.extras import NO_EXTRAS
from relay.usage import COUNTS, INPUT_UNTOLD, NOTHING, OUTPUT_UNTOLD, Usage, bounded
from relay.wire.state.shapes import BatchLine, KeptBatch, MessageLine
from relay.wire.usage.delivered_tokens import tokens_of_body
from relay.wire.usage.reader import find_usage_of_body

TIER: Final = "batch"
"""The service tier that a batch is priced at."""
OPENAI_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
MESSAGES_ENDED: Final = "ended"
WORDLESS: Final = frozenset({"/v1/embeddings", "/v1/moderations"})
"""Whose answers are no text: what they do not say of output is none."""
_SUMMED: Final = ("searches", "sessions", "audio_ms", "characters", "search_units")

_RESULTS: Final = re.compile(
    rb'("results_url"\s*:\s*)"https?://[^/"\\]+(?:/[^"\\]*?)?(/v1/messages/batches/[^"\\]+)"'
)
_kept = Decoder(KeptBatch)
_line = Decoder(BatchLine)
_message = Decoder(MessageLine)


def read_batch(body: bytes) -> KeptBatch:
    """Return what a provider says of a batch; all empty where it is none."""
    try:
        return _kept.decode(body)
    except Undecodable:
        return KeptBatch()


class BatchResults:
    """The sum of one batch's results (implements wire.state.jobs.Results).

    Args:
        path: Where they are.
        served: How many of its requests were, by its object; None = it does not say.
        told: What its object says that they used.
        input_each: About how many tokens were sent for each request.
        wordless: Its answers are no text.
    """

    __slots__ = (
        "_counts",
        "_estimated",
        "_extras",
        "_input_each",
        "_requests",
        "_served",
        "_wordless",
        "path",
        "told",
    )

    def __init__(
        self,
        path: str,
        served: int | None,
        told: Usage | None,
        input_each: int,
        *,
        wordless: bool = False,
    ) -> None:
        self.path = path
        self.told = told
        self._served = served
        self._input_each = input_each
        self._wordless = wordless
        self._counts = dict.fromkeys(COUNTS, 0)
        self._extras = dict.fromkeys(_SUMMED, 0)
        self._requests = 0
        self._estimated = False

    def take(self, line: bytes) -> None:
        """Add what one request used; a line without an answer adds nothing.

        Raises:
            ChannelGarbled: CHANNEL; it is no line of results: what it holds is not known.
        """
        try:
            body = answer_of(line)
        except Undecodable:
            raise ChannelGarbled("A line of a batch's results cannot be read.") from None
        if body is not None:
            self.take_answer(body)

    def take_answer(self, body: bytes) -> None:
        """Add what one request used that was answered."""
        self.take_usage(self._filled(find_usage_of_body(body), body))

    def take_usage(self, usage: Usage) -> None:
        """Add what one request is known to have used."""
        self._requests += 1
        self._add(bounded(usage))

    def usage(self) -> Usage | None:
        """Return the sum; None: there is no answer in results that have some, by their object."""
        if not self._requests:
            return None if self._served else NOTHING
        extras = msgspec.structs.replace(
            NO_EXTRAS, tier=TIER, requests=self._requests, **self._extras
        )
        return Usage(**self._counts, extras=extras, estimated=self._estimated, tier_told=True)

    def _filled(self, usage: Usage | None, body: bytes) -> Usage:
        """Return what an answer used, what it does not say estimated."""
        untold = (INPUT_UNTOLD | OUTPUT_UNTOLD) if usage is None else usage.untold
        if usage is not None and not untold:
            return usage
        found = usage or Usage()
        given, output = found.input_tokens, found.output_tokens
        if untold & INPUT_UNTOLD:
            given, self._estimated = max(given, found.total_tokens or self._input_each), True
        if untold & OUTPUT_UNTOLD and not self._wordless:
            output, self._estimated = max(output, tokens_of_body(body)), True
        counts = {name: getattr(found, name) for name in COUNTS}
        counts |= {"input_tokens": given, "output_tokens": output}
        return Usage(**counts, extras=found.extras)

    def _add(self, usage: Usage) -> None:
        for name in COUNTS:
            self._counts[name] += getattr(usage, name)
        if usage.extras is not None:
            for name in _SUMMED:
                self._extras[name] += getattr(usage.extras, name)


Read = Callable[[int], BatchResults]
"""Makes what its results are read by, given about how many tokens each request sent."""


def answer_of(line: bytes) -> bytes | None:
    """Return the answer in a line of results, None where its request has none that is charged."""
    if b'"result"' in line:
        message = _message.decode(line).result
        if message is not None:
            return _object(message.message) if message.type == "succeeded" else None
    response = _line.decode(line).response
    if response is None or not 200 <= response.status_code < 300:
        return None
    return _object(response.body)


def _object(raw: msgspec.Raw) -> bytes | None:
    body = bytes(raw)
    return body if body.startswith(b"{") else None


def made_files(body: bytes) -> list[bytes]:
    """Return the ids of the files that a batch has made."""
    batch = read_batch(body)
    return [name.encode() for name in (batch.output_file_id, batch.error_file_id) if name]


def with_own_results(body: bytes, origin: bytes) -> bytes:
    """Return a message batch whose results are fetched from us: its client has no other key.

    Its provider names the place by a whole address, which the official clients ask as it stands.
    """
    return _RESULTS.sub(lambda found: b'%b"%b%b"' % (found[1], origin, found[2]), body)


def begun_batch(body: bytes) -> str:
    """Return the id of a batch that goes on, "" where none does."""
    batch = read_batch(body)
    return batch.id if batch.id and ended_batch(body) is None else ""


def ended_batch(body: bytes) -> Usage | Read | None:
    """Return what a batch used where that is nothing, what has to be read of it, or None.

    None: it has not ended, or that is no answer to go by.
    """
    batch = read_batch(body)
    counts = batch.request_counts
    if batch.processing_status:
        if batch.processing_status != MESSAGES_ENDED:
            return None
        served = None if counts is None else counts.succeeded
        if served == 0:
            return NOTHING
        path = f"/messages/batches/{quote(batch.id, safe='')}/results"
        return partial(BatchResults, path, served, None)
    if batch.status not in OPENAI_ENDED:
        return None
    served = None if counts is None else counts.completed
    if not batch.output_file_id and not served:
        return NOTHING
    named = quote(batch.output_file_id or "", safe="")
    path = f"/files/{named}/content" if named else ""
    wordless = batch.endpoint in WORDLESS
    return partial(BatchResults, path, served, _told(batch), wordless=wordless)


def _told(batch: KeptBatch) -> Usage | None:
    """Return what a batch's own object says that all of it used."""
    told = _object(batch.usage)
    if told is None or batch.request_counts is None:
        return None
    usage = find_usage_of_body(b'{"usage":%b}' % told)
    if usage is None or usage.untold:
        return None
    requests = max(1, batch.request_counts.completed)
    extras = msgspec.structs.replace(usage.extras or NO_EXTRAS, tier=TIER, requests=requests)
    counts = {name: getattr(usage, name) for name in COUNTS}
    return Usage(**counts, extras=extras, tier_told=True)
