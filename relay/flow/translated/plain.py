"""A translated answer in one piece: held until it is whole, then written anew."""

from relay.errors import ChannelGarbled, ChannelRefused, RelayError
from relay.flow.attempts.attempt import LastWord
from relay.flow.attempts.buffer import Buffer
from relay.flow.translated.attempt import TranslatedAttempt
from relay.records import Endpoint
from relay.translate.answers import ANSWER_BYTES_MAX, translate_answer
from relay.translate.counting import read_count, write_count
from relay.translate.embedding import read_vectors, write_vectors
from relay.translate.ways import COUNTING
from relay.wire.http import EVENT_STREAM, JSON
from relay.wire.refusals.identity import known_by
from relay.wire.refusals.upstream_errors import find_wrong, is_error_body, read_reported_error
from relay.wire.sse import is_json_object
from relay.wire.usage.delivered_tokens import Measured, tokens_of_body, tokens_of_bytes
from relay.wire.usage.reader import find_usage_of_body


class TranslatedPlain(TranslatedAttempt):
    """An attempt whose answer is one JSON body, translated when it is whole.

    Args:
        call, channel, committed, settle, limits, plan: See TranslatedAttempt.
    """

    _text_tokens: int | None = None
    """Of an answer that did not say what it used; None: it was not looked at."""
    _body: Buffer | None = None

    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        if kind in (b"text/html", EVENT_STREAM):
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Hold what one read brought."""
        if done:
            self._connection = None  # it is back in its pool
        if self._refusal is not None:
            self._hear_refusal(self._refusal, parts, done=done)
            return
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        self.bytes_in += len(payload)
        body = self._body
        if body is None:
            body = self._body = Buffer()
        body.add(payload)
        if done:
            self._end_whole(body.release())
        elif body.size_bytes > ANSWER_BYTES_MAX:
            self.fail(ChannelGarbled("The upstream's answer is too long to be translated."))

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure the answer; see Attempt."""
        tokens = self._text_tokens
        return Measured(tokens_of_bytes(bytes_out) if tokens is None else tokens)

    def on_lost(self, error: RelayError) -> None:
        """End: a body is whole only when its framing says so."""
        self._connection = None
        self.fail(error)

    def last_word(self) -> LastWord:
        """Tell whether a silent body is whole JSON, though its framing does not say so."""
        if self._body is None:
            return LastWord.DUE
        body = self._body.release()
        self._body.add(body)
        return LastWord.SAID if is_json_object(body) else LastWord.DUE

    def lapse(self, error: RelayError) -> None:
        """End on a stall: JSON that is whole only kept its connection open."""
        body = self._body
        if body is not None and self.last_word() is LastWord.SAID:
            self._drop_connection()
            self._body = None
            self._end_whole(body.release())
        else:
            self.fail(error)

    def _end_whole(self, body: bytes) -> None:
        """Send the answer in the client's dialect."""
        call = self.call
        if is_error_body(body):
            self.fail(read_reported_error(body, None, known_by(self.channel)))
            return
        wrong = find_wrong(body, self._endpoint)
        if wrong is not None:
            self.fail(ChannelRefused(wrong))
            return
        if self._endpoint in COUNTING:
            self._end_count(body)
            return
        if self._plan.embeds:
            self._end_vectors(body)
            return
        answer = translate_answer(self._upstream, self._client, body, self._terms)
        if answer.trouble is not None:
            self.fail(self._failed_with(answer.trouble))
            return
        if answer.signatures:
            self._plan.keep(self.channel, answer.signatures)
        told: bytes = answer.body
        if call.head.endpoint is Endpoint.STREAM_GENERATE:
            told = b"[" + told + b"]"  # without `alt=sse` a stream is a JSON array
        self._announce(answer.lost)
        self._commit()
        call.bytes_out = len(told)
        usage = find_usage_of_body(body)
        if usage is None or usage.untold:
            self._text_tokens = tokens_of_body(body)
        call.usage = usage
        self._complete()
        call.response.send_whole(JSON, told)
        self._resolve()

    def _end_count(self, body: bytes) -> None:
        """Send a count of tokens in the client's dialect; it costs nothing."""
        tokens = read_count(self._upstream, body)
        if tokens is None:
            self.fail(ChannelRefused("The upstream told no count of tokens."))
            return
        told: bytes = write_count(self._client, tokens)
        self._announce(())
        self._commit()
        self.call.bytes_out = len(told)
        self._complete()
        self.call.response.send_whole(JSON, told)
        self._resolve()

    def _end_vectors(self, body: bytes) -> None:
        """Send vectors in the client's dialect; their provider may not say what they used."""
        call = self.call
        vectors = read_vectors(self._upstream, body)
        if vectors is None:
            self.fail(ChannelRefused("The upstream told no vectors."))
            return
        usage = find_usage_of_body(body)
        tokens = call.request.input_estimate if usage is None else usage.input_tokens
        told: bytes = write_vectors(
            call.head.endpoint, vectors, call.request.model, tokens, packed=self._plan.packs
        )
        self._announce(())
        self._commit()
        call.bytes_out = len(told)
        call.usage = usage
        self._text_tokens = 0
        self._complete()
        call.response.send_whole(JSON, told)
        self._resolve()
