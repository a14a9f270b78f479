"""The requests of a batch, read one by one: what all of them may use together.

Each is read as a call of its endpoint is, so nothing costs less to hold, or passes unpriced, for
standing in a batch. A batch has one model: a request that cannot be read, or names another one, is
refused with its place.

Source: OpenAI API reference, Batch, the input file: one model, 50,000 requests, 200 MB; Anthropic,
Message Batches: 100,000 requests, 256 MB; Gemini API, Batch: requests inline up to 20 MB.
"""

from typing import Final, TypeVar

import msgspec

from relay.billing.charged import input_max
from relay.decoding import Decoder, Undecodable
from relay.errors import BadRequest
from relay.extras import Asked
from relay.records import Endpoint
from relay.wire.request.asked import asks_for_an_hour, read_asked
from relay.wire.request.content_request import RESOURCE, peek_content
from relay.wire.request.json_request import Request, peek_json
from relay.wire.request.shapes import BatchRequest, Fields, MessageRequest
from relay.wire.request.text_size import estimate_prompt, weigh

REQUESTS_MAX: Final = 100_000
TIER: Final = "batch"
PATHS: Final = {
    f"/v1/{one.value}": one
    for one in (
        *(Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES),
        *(Endpoint.EMBEDDINGS, Endpoint.MODERATIONS),
    )
}
"""What batches of OpenAI's may ask for here."""
_WORDLESS: Final = frozenset({Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.EMBED_CONTENT})

NAME: Final = b"\0model\0"
"""Stands for the model's name: no JSON holds these bytes."""
_Told = TypeVar("_Told")
_line = Decoder(BatchRequest)
_message = Decoder(MessageRequest)
_members = Decoder(Fields)
_CONTENT_MEMBERS: Final = frozenset({"request", "metadata"})
_encode = msgspec.json.Encoder().encode


class BatchSum:
    """What the requests of one batch ask for together.

    `model`: of all of them. `requests`: how many. `input_tokens`: about. `input_max`: the most that
    they can be. `output_tokens`: what those answers may take that are bounded; `unbounded`: how
    many are not.
    """

    __slots__ = (
        "hour_cache",
        "input_max",
        "input_tokens",
        "makes_pictures",
        "model",
        "output_tokens",
        "requests",
        "searches",
        "sessions",
        "unbounded",
    )

    def __init__(self) -> None:
        self.model = ""
        self.requests = self.input_tokens = self.input_max = 0
        self.output_tokens = self.unbounded = self.searches = self.sessions = 0
        self.hour_cache = self.makes_pictures = False

    def add_line(self, line: bytes, endpoint: Endpoint) -> None:
        """Add one line of an input file.

        Raises:
            BadRequest: CLIENT; it cannot be read, or is another model's or another endpoint's.
        """
        told = self._decode(_line, line)
        if PATHS.get(told.url) is not endpoint:
            raise self._wrong("its url is not the endpoint of the batch")
        self._add(bytes(told.body), endpoint)

    def add_message(self, raw: bytes) -> bytes:
        """Add one request of a message batch; return it as `framed` takes it.

        It is written anew from what was read of it: no member that is given twice means one thing
        to us and another to an upstream.

        Raises:
            BadRequest: CLIENT; it cannot be read, or is another model's.
        """
        told = self._decode(_message, raw)
        request = self._add(bytes(told.params), Endpoint.MESSAGES)
        rest = {name: value for name, value in request.fields.items() if name != "model"}
        more = (b"," if rest else b"") + _encode(rest)[1:]
        return b'"custom_id":%b,"params":{"model":' % _encode(told.custom_id) + NAME + more

    def add_content(self, raw: bytes, model: str, endpoint: Endpoint) -> bytes:
        """Add one request of a batch of Gemini's; return it as `framed_contents` takes it.

        `model`: what its path names. `endpoint`: where it would be asked by itself. It is written
        anew, as `add_message` has it.

        Raises:
            BadRequest: CLIENT; it cannot be read, or is another model's.
        """
        told = self._decode(_members, raw)
        if "request" not in told or not told.keys() <= _CONTENT_MEMBERS:
            raise self._wrong("it is no request with its metadata, and nothing beside")
        body = bytes(told["request"])
        try:
            request = peek_content(body, model, stream=False)
        except BadRequest as error:
            said = error.message
        else:
            named = request.fields.get("model")
            if named is not None and bytes(named) != _encode(RESOURCE + model):
                raise self._wrong("it names another model than its path")
            self._count(request, body, endpoint)
            rest = {name: value for name, value in request.fields.items() if name != "model"}
            more = (b"," if rest else b"") + _encode(rest)[1:]
            beside = told.get("metadata")
            noted = b"" if beside is None else b',"metadata":' + bytes(beside)
            return b'"request":{"model":' + NAME + more + noted
        raise self._wrong(said)

    def asked(self) -> Asked:
        """Return what they ask for beside tokens."""
        return Asked(
            tier=TIER,
            requests=self.requests,
            unbounded=self.unbounded,
            searches=self.searches,
            sessions=self.sessions,
            hour_cache=self.hour_cache,
            makes_pictures=self.makes_pictures,
        )

    def _add(self, body: bytes, endpoint: Endpoint) -> Request:
        try:
            request = peek_json(body, endpoint)
        except BadRequest as error:
            said = error.message
        else:
            self._count(request, body, endpoint)
            return request
        raise self._wrong(said)

    def _count(self, request: Request, body: bytes, endpoint: Endpoint) -> None:
        self.model = self.model or request.model
        if request.model != self.model:
            raise self._wrong("it names another model than the first one: send a batch for each")
        if self.requests >= REQUESTS_MAX:
            raise BadRequest(f"A batch has at most {REQUESTS_MAX} requests.")
        asked = read_asked(request.fields, endpoint, body, request.n)
        text_bytes, images = weigh(body)
        self.requests += 1
        self.input_tokens += estimate_prompt(body, text_bytes, images)
        self.input_max += input_max(len(body), images, asked)
        self.searches += asked.searches
        self.sessions += asked.sessions
        self.makes_pictures = self.makes_pictures or asked.makes_pictures
        self.hour_cache = self.hour_cache or asks_for_an_hour(request.fields)
        if endpoint in _WORDLESS:
            return
        if request.output_tokens_max is None:
            self.unbounded += request.n
        else:
            self.output_tokens += request.output_tokens_max * request.n

    def _decode(self, decoder: Decoder[_Told], raw: bytes) -> _Told:
        try:
            return decoder.decode(raw)
        except Undecodable:
            pass
        raise self._wrong("it is not what a batch is made of")

    def _wrong(self, said: str) -> BadRequest:
        return BadRequest(f"Request {self.requests + 1} of the batch cannot be taken: {said}")


def framed(requests: list[bytes], model: str) -> bytes:
    """Return a message batch as an upstream gets it that knows the model as `model`."""
    name = _encode(model)
    return b'{"requests":[{%b}]}' % b"},{".join(one.replace(NAME, name, 1) for one in requests)


def framed_contents(requests: list[bytes], shown: bytes, model: str) -> bytes:
    """Return a batch of Gemini's as an upstream gets it that knows the model as `model`.

    `shown`: the name under which its client finds it, as JSON; b"" = it has none.
    """
    name = _encode(RESOURCE + model)
    head = b'"displayName":%b,' % shown if shown else b""
    body = b"},{".join(one.replace(NAME, name, 1) for one in requests)
    return b'{"batch":{%b"inputConfig":{"requests":{"requests":[{%b}]}}}}' % (head, body)
