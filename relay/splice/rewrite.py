"""Carries a broken stream on: the events of the new channel, made those of the old stream.

The client has seen one id, one role and the beginning of a text; it gets the rest under the same
id, without a second role, and one usage that adds up to one answer. Only a spliced stream is read
event by event; everything here is off the hot path.

    carry_on -> Continuation(fields to ask with, Splice)
    Splice.feed(payloads of whole events) -> bytes for the client
    Splice.end() -> the last bytes; then `state` is FINISHED or BROKEN
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from relay.decoding import Decoder, Undecodable, decoder_of
from relay.model import Resume
from relay.records import Endpoint
from relay.splice.anchor import NOTICE_TOKENS, AnchorOverlap, anchor_of
from relay.splice.continuation import ContinuedRequest, continue_request, raw_of
from relay.splice.delivered import DONE, IDENTITY, THOUGHTS, count_tokens
from relay.splice.gates import (
    EMPTY,
    Delivered,
    Means,
    SplicePlan,
    SpliceRefusal,
    is_at_bound,
)
from relay.splice.gemini import GeminiSplice, continue_contents
from relay.splice.messages import MessagesSplice
from relay.splice.overlap import (
    EchoOverlap,
    JoinOverlap,
    NothingMore,
    Overlap,
    ReplayOverlap,
)
from relay.splice.response_items import DeliveredResponse
from relay.splice.responses import ResponsesSplice, continue_input
from relay.splice.state import Rewriting, SpliceState
from relay.usage import Usage

DONE_EVENT: Final = b"data: [DONE]\n\n"
_FOREIGN: Final = ("x_groq",)
"""Holds an id and a usage of its own, which would speak of the second leg alone."""


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _LegUsage(msgspec.Struct):
    """The second leg's usage, as OpenAI and its like report it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: dict[str, int | None] | None = None


_usage_decoder: Final = Decoder(_LegUsage)
_fields_decoder: Final = Decoder(dict[str, msgspec.Raw])
_choices_decoder: Final = Decoder(list[dict[str, msgspec.Raw]])
_text_decoder: Final = decoder_of(str | None)


class Continuation(NamedTuple):
    """What is needed to carry a stream on over a channel.

    `fields`: the top level of the body to send it (model and stream_options as the client gave
    them). `tokens_before`: of the old channel's part, 0 where the new one gives all of it again.
    `extra`: of its prompt, that nobody but us asked for. `means`: in which way it goes on.
    """

    fields: dict[str, msgspec.Raw]
    splice: Rewriting
    tokens_before: int
    extra: int = 0
    means: str = ""


def continue_stream(
    means: Means,
    resume: Resume,
    *,
    plan: SplicePlan,
    fields: Mapping[str, msgspec.Raw],
    delivered: Delivered,
) -> Continuation | SpliceRefusal:
    """Return what carries a stream on by the given means, or why it cannot be carried on.

    Args:
        means: What `means_on` said of the channel.
        resume: The channel's form of continuing.
        plan: What was judged of the request.
        fields: The top level of the client's body, values verbatim.
        delivered: What the client has.
    """
    asked = dict(fields)
    tokens_before = extra = 0
    overlap: Overlap
    if means in (Means.CONTINUE, Means.ANCHOR):
        continuation = _continue(means, resume, plan, fields, delivered)
        if isinstance(continuation, SpliceRefusal):
            return continuation
        asked, given = continuation
        tokens_before = delivered.tokens
        chat = plan.endpoint is Endpoint.CHAT
        bound = plan.tokens_max
        if means is Means.ANCHOR:
            anchor = anchor_of(delivered.text)
            # It says its last words twice: the second time they are part of the rest.
            tokens_before = max(0, delivered.tokens - count_tokens(anchor, 0))
            extra = NOTICE_TOKENS + delivered.tokens - tokens_before
            overlap = AnchorOverlap(delivered.text, anchor)
        elif bound is not None and is_at_bound(plan, delivered):
            tokens_before = max(0, bound - 1)  # the one that is asked for is the last
            overlap = NothingMore()
        elif chat and resume is Resume.ECHO:
            overlap = EchoOverlap(delivered.text, given)
        else:
            may_echo = chat and resume is Resume.PREFIX
            overlap = JoinOverlap(delivered.text, given, may_echo=may_echo)
    elif means is Means.REPLAY:
        overlap = ReplayOverlap(delivered.text)
    else:
        overlap = JoinOverlap(delivered.text, "", may_echo=False)
    splice: Rewriting
    if plan.endpoint is Endpoint.STREAM_GENERATE:
        splice = GeminiSplice(delivered, overlap, tokens_before, extra)
    elif plan.endpoint is Endpoint.MESSAGES:
        splice = MessagesSplice(delivered, overlap, tokens_before)
    elif isinstance(delivered, DeliveredResponse):
        splice = ResponsesSplice(delivered, overlap, tokens_before, extra)
    else:
        splice = Splice(plan, delivered, overlap, tokens_before, extra)
    return Continuation(asked, splice, tokens_before, extra, means.value)


def _continue(
    means: Means,
    resume: Resume,
    plan: SplicePlan,
    fields: Mapping[str, msgspec.Raw],
    delivered: Delivered,
) -> ContinuedRequest | SpliceRefusal:
    """Return the request that goes on, in its own dialect."""
    response = delivered if isinstance(delivered, DeliveredResponse) else None
    if plan.endpoint is not Endpoint.STREAM_GENERATE and response is None:
        return continue_request(fields, plan, delivered, resume)
    anchor = anchor_of(delivered.text) if means is Means.ANCHOR else ""
    try:
        if response is not None:
            found = continue_input(fields, plan, response, anchor)
        else:
            found = continue_contents(fields, plan, delivered, anchor)
    except Undecodable:
        return SpliceRefusal.UNREADABLE
    return found if isinstance(found, SpliceRefusal) else ContinuedRequest(*found)


def join_usage(usage: Usage, tokens_before: int, extra: int = 0) -> Usage:
    """Return the usage of the whole answer from that of its second leg.

    The second leg read the first one's text as part of its prompt: that part moves to the output,
    and the total stays what it is. The client pays the prompt once and the joined answer.
    """
    if tokens_before == 0 and extra == 0:
        return usage
    before = min(tokens_before, usage.input_tokens)
    input_tokens = max(0, usage.input_tokens - before - extra)
    # What moves is the prompt's end: the plain part first, then what was just written to a cache.
    cached = min(usage.cached_tokens, input_tokens)
    written = min(usage.cache_write_tokens, input_tokens - cached)
    return dataclasses.replace(
        usage,
        input_tokens=input_tokens,
        cached_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=min(usage.cache_write_1h_tokens, written),
        output_tokens=usage.output_tokens + before,
        estimated=True,
    )


class Splice:
    """Rewrites the events of the channel that carries a stream on.

    Args:
        plan: What was judged of the request.
        delivered: What the client has.
        overlap: Where the texts meet.
        tokens_before: Tokens of the old channel's part that the new one counts as its prompt.
        extra: Others of its prompt, that nobody but us asked for.
    """

    def __init__(
        self,
        plan: SplicePlan,
        delivered: Delivered,
        overlap: Overlap,
        tokens_before: int,
        extra: int = 0,
    ) -> None:
        self._extra = extra
        self._chat = plan.endpoint is Endpoint.CHAT
        self._usage_asked = plan.usage_asked
        self._delivered = delivered
        self._overlap = overlap
        self._tokens_before = tokens_before
        self.state = SpliceState.RUNNING
        self.marked = False
        """The new channel has sent [DONE]: nothing it sends later counts."""

    def feed(self, payloads: Iterable[bytes]) -> bytes:
        """Return what the client gets of some whole events.

        Args:
            payloads: The data of each event, in order; b"" for a comment.

        Returns:
            Whole events; b"" where nothing of them goes on. What comes after the stream has
            broken is dropped: look at `state` after each call.
        """
        events: list[bytes] = []
        for payload in payloads:
            if self.marked or self.state is SpliceState.BROKEN:
                break
            if payload:
                events.append(self._take(payload))
        return b"".join(events)

    def end(self) -> bytes:
        """Return the last bytes; the new channel has ended, whether it was whole or broke off."""
        if self.state is SpliceState.FINISHED:
            return DONE_EVENT
        self.state = SpliceState.BROKEN
        return b""

    def _take(self, payload: bytes) -> bytes:
        try:
            if payload.strip() == DONE:
                return self._mark()
            fields = _fields_decoder.decode(payload)
            if not _is_empty(fields.get("error")):
                self.state = SpliceState.BROKEN
                return b""
            return self._rewrite(fields)
        except Undecodable:
            self.state = SpliceState.BROKEN
            return b""

    def _mark(self) -> bytes:
        """Take the new channel's [DONE]; some never send a finish_reason before it."""
        self.marked = True
        if self.state is SpliceState.FINISHED:
            return b""
        choice = {"index": raw_of(0), "finish_reason": raw_of("stop")}
        name = "delta" if self._chat else "text"
        choice[name] = raw_of({} if self._chat else "")
        return self._rewrite({"choices": raw_of([choice])})

    def _rewrite(self, fields: dict[str, msgspec.Raw]) -> bytes:
        """Return an event of the new channel as one of the old stream; b"" to drop it."""
        choices = _choices_decoder.decode(fields.get("choices", b"[]"))
        kept = [choice for choice in choices if self._keep(choice)]
        if self.state is SpliceState.BROKEN:
            return b""
        counted = not _is_empty(fields.get("usage"))
        if choices:
            due = bool(kept)
        else:  # a preamble, or what comes after the finish: usage, moderation
            due = self.state is SpliceState.FINISHED and (self._usage_asked or not counted)
        if not due:
            return b""
        fields["choices"] = raw_of(kept)
        if counted:
            fields["usage"] = self._join(fields["usage"])
        self._identify(fields)
        return b"data: " + msgspec.json.encode(fields) + b"\n\n"

    def _keep(self, choice: dict[str, msgspec.Raw]) -> bool:
        """Make a choice the old stream's, in place; False where nothing of it goes on."""
        finished = not _is_empty(choice.get("finish_reason"))
        if self._chat:
            delta = _fields_decoder.decode(choice.get("delta", b"{}"))
            due = self._join_delta(delta, last=finished)
            choice["delta"] = raw_of(delta)
        else:
            text = self._join_text(choice.get("text"), last=finished)
            due = bool(text)
            choice["text"] = raw_of(text)
        if self._overlap.broken:
            self.state = SpliceState.BROKEN
        elif finished:
            self.state = SpliceState.FINISHED
        return due or finished

    # A model that thinks before it goes on would put its thoughts into the middle of the answer.

    def _join_delta(self, delta: dict[str, msgspec.Raw], *, last: bool) -> bool:
        """Make a delta the old stream's, in place; False where nothing of it is left."""
        if self._delivered.role_out:
            delta.pop("role", None)
        if self._delivered.text or self._delivered.thought:
            for name in THOUGHTS:
                delta.pop(name, None)
        acts = not _is_empty(delta.get("tool_calls"))  # what is held back comes before the act
        text = self._join_text(delta.pop("content", None), last=last or acts)
        due = any(not _is_empty(raw) for raw in delta.values())
        if text or "role" in delta:
            delta["content"] = raw_of(text)
        return due or bool(text)

    def _join_text(self, raw: msgspec.Raw | None, *, last: bool) -> str:
        text = None if raw is None else _text_decoder.decode(raw)
        joined = self._overlap.feed(text) if text else ""
        return joined + self._overlap.end() if last else joined

    def _identify(self, fields: dict[str, msgspec.Raw]) -> None:
        """Give an event the identity of the old stream; where none was out, it keeps its own."""
        for name in _FOREIGN:
            fields.pop(name, None)
        identity = self._delivered.identity
        if identity:
            for name in IDENTITY:
                fields.pop(name, None)
            fields.update(identity)

    def _join(self, raw: msgspec.Raw) -> msgspec.Raw:
        """Return the usage that the client sees: one answer, whatever it took."""
        if self._tokens_before == 0 and self._extra == 0:
            return raw
        leg = _usage_decoder.decode(raw)
        before = min(self._tokens_before, leg.prompt_tokens)
        prompt = max(0, leg.prompt_tokens - before - self._extra)
        usage: dict[str, object] = {
            "prompt_tokens": prompt,
            "completion_tokens": leg.completion_tokens + before,
            "total_tokens": prompt + leg.completion_tokens + before,
        }
        if leg.prompt_tokens_details is not None:
            cached = leg.prompt_tokens_details.cached_tokens or 0
            usage["prompt_tokens_details"] = {"cached_tokens": min(cached, prompt)}
        if leg.completion_tokens_details is not None:
            usage["completion_tokens_details"] = leg.completion_tokens_details
        return raw_of(usage)


def _is_empty(raw: msgspec.Raw | None) -> bool:
    return raw is None or bytes(raw) in EMPTY
