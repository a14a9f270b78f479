"""What one call is in the dialects of the channels that do not speak its own.

    admitted -> planned (each channel: translated, or refused by name) -> asked -> committed

A plan is made only for calls that a channel of another dialect may have to serve.
"""

from typing import Final

import msgspec

from relay.errors import forget_frames
from relay.flow.call import Call
from relay.flow.translated.kept import KeptThinking
from relay.flow.translated.upstreams import describe_upstream
from relay.model import Channel
from relay.records import Endpoint
from relay.translate.answer import AnswerTerms
from relay.translate.counting import count_request, counted_body
from relay.translate.embedding import embedding_request, wants_packed
from relay.translate.middle import JsonObject, Refused, TranslateDialect, Upstream
from relay.translate.requests import TranslatedRequest, translate_request
from relay.translate.ways import COUNTING, EMBEDDING, spoken_at, spoken_by, way_of

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, object]).decode


class CallTranslation:
    """The plan of one call.

    Args:
        call: An admitted call whose line has channels of other dialects.
        kept: Where signed thinking is kept.
    """

    def __init__(self, call: Call, kept: KeptThinking) -> None:
        client = spoken_at(call.head.endpoint)
        assert client is not None, "only what can be translated has foreign channels"
        self.client: TranslateDialect = client
        self._kept = kept
        self._account_id = call.rights.account.id if call.rights.account is not None else 0
        self._endpoint: Endpoint = call.head.endpoint
        self.counts = self._endpoint in COUNTING
        """It wants to know how many tokens it is, and no answer."""
        self.embeds = self._endpoint in EMBEDDING
        """It wants vectors."""
        self.packs = False
        """It wants them in base64."""
        ways = {spoken_by(channel, self._endpoint) for channel in call.rights.foreign}
        self.sure = not call.rights.channels and len(ways) == 1
        """Whoever is asked, it is translated in the same way."""
        self._foreign = frozenset(channel.id for channel in call.rights.foreign)
        self._requests: dict[int, TranslatedRequest] = {}
        self._wanted: dict[str, None] = {}
        """Ids of calls that a request gives the results of."""
        self.refused: Refused | None = None
        """Why the first channel that cannot be asked cannot."""
        self.whole = False
        """Every channel was looked at."""
        self._looked = False
        """Other workers' thinking was looked for."""

    def write(self, call: Call) -> None:
        """Translate the question for each channel, or note why it cannot be."""
        body = _body_of(call)
        self.packs = self.embeds and wants_packed(body)
        self._requests.clear()
        self.refused = None
        alike: list[tuple[TranslateDialect, Upstream, TranslatedRequest]] = []
        for channel in call.rights.foreign:
            try:
                self._requests[channel.id] = self._write_for(call, channel, body, alike)
            except Refused as refused:
                forget_frames(refused)  # they hold the question, and the plan would hold them
                self.refused = self.refused or refused
        self.whole = True

    def _write_for(
        self,
        call: Call,
        channel: Channel,
        body: JsonObject,
        alike: list[tuple[TranslateDialect, Upstream, TranslatedRequest]],
    ) -> TranslatedRequest:
        """Return the question in a channel's dialect; of `alike`, where it can only be the same.

        Without anything signed in it, a request is the same to all channels of one kind.
        """

        def look_up(call_id: str) -> str | None:
            self._wanted[call_id] = None
            return self._kept.find(self._account_id, call_id, channel)

        dialect = spoken_by(channel, self._endpoint)
        model = channel.models[call.request.model]
        if self.embeds:
            return embedding_request(dialect, self._endpoint, body, model)
        upstream = describe_upstream(channel, model, call.rights.tariff)
        if not self._kept.any_of(self._account_id, self._wanted):
            for other, known, request in alike:
                if other is dialect and known == upstream:
                    return request
        request = translate_request(
            self.client,
            dialect,
            body,
            upstream,
            stream=call.request.stream,
            signatures=look_up,
        )
        if self.counts:
            vertex = "/publishers/" in channel.base_url
            request.body = count_request(dialect, request.body, model, vertex=vertex)
        alike.append((dialect, upstream, request))
        return request

    def missing(self) -> list[str]:
        """Return ids of calls whose thinking may be kept elsewhere, where nobody has looked yet."""
        return [] if self._looked else self._kept.missing(self._account_id, self._wanted)

    async def fetch(self, call_ids: list[str]) -> bool:
        """Bring in the thinking that other workers kept; True where there was some."""
        found = await self._kept.fetch(self._account_id, call_ids)
        self._looked = True
        return found

    def takes(self, channel: Channel) -> bool:
        """Tell whether a channel of another dialect can be asked."""
        return channel.id in self._requests

    def serves(self, channel: Channel) -> bool:
        """Tell whether a channel's answers have to be translated."""
        return channel.id in self._foreign

    def request_to(self, channel: Channel) -> TranslatedRequest:
        """Return what a channel is asked."""
        return self._requests[channel.id]

    def terms_for(self, call: Call, channel: Channel) -> AnswerTerms:
        """Return what the client's answer is made with."""
        request = self._requests[channel.id]
        return request.terms(call.id.hex(), call.request.model, call.time_us // 1_000_000)

    def keep(self, channel: Channel, pairs: list[tuple[str, str]]) -> None:
        """Keep what a channel signed of its thinking."""
        self._kept.take(self._account_id, channel, pairs)

    def way(self, channel: Channel | None) -> str:
        """Return how a call that `channel` serves is translated, "" where it is not."""
        if channel is None or not self.serves(channel):
            return ""
        return way_of(self.client, spoken_by(channel, self._endpoint))

    def forget(self) -> None:
        """Let go of the requests: nobody is asked any more."""
        self._requests.clear()


def _body_of(call: Call) -> JsonObject:
    fields = call.question.fields
    assert fields is not None, "what can be translated is JSON"
    # Decoded from what an upstream of the client's own dialect would get: one reading for all.
    body = _decode(_encode(fields))
    client = spoken_at(call.head.endpoint)
    counting = client is not None and call.head.endpoint in COUNTING
    return counted_body(client, body) if counting and client is not None else body
