"""What the mock answers to each request: routes, credentials, faults, and the control paths.

No socket here: a MockRequest in, a MockReply out.
"""

import random
from typing import Any, Final, Protocol
from urllib.parse import unquote

import msgspec

from relay.mock import batches, faults, rejections
from relay.mock.answers.answer import MockAnswer, cached_tokens, single
from relay.mock.answers.messages import refuse
from relay.mock.answers.render import list_models, show_model
from relay.mock.answers.repertoire import Repertoire
from relay.mock.faults import MockFault
from relay.mock.options import MockOptions
from relay.mock.plan import AnswerPlan, Style, join_body, lay_out
from relay.mock.question import ANTHROPIC, ENDPOINTS, MockQuestion, QuestionError, parse
from relay.mock.record import Record, ServedRecord
from relay.mock.wire_faults import bend

CONTROL: Final = "/_mock/"
HEALTH: Final = "/health"
"""Routers of model servers ask it before they send anything; vLLM and SGLang answer 200 there."""


class MockRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request off the wire; header names in lower case, `path` without its query."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    chunked: bool
    """Whether the client understands HTTP chunks."""


class MockReply(msgspec.Struct, frozen=True, kw_only=True):
    """What to play. `served`: the call to be noted when it has ended; None for all but calls."""

    plan: AnswerPlan
    served: ServedRecord | None = None


class SetFail(Protocol):
    """Puts faults in force, as they are written."""

    def __call__(self, *texts: str) -> None:
        """Replace those in force; raises ValueError for an unknown one."""
        ...


class MockService:
    """Answers requests as the options and the faults in force say.

    Args:
        options: How the mock behaves.
        record: Takes note of calls.
        set_fail: Puts other faults in force.
    """

    def __init__(self, options: MockOptions, record: Record, set_fail: "SetFail") -> None:
        self.faults: tuple[MockFault, ...] = ()
        self._options = options
        self._record = record
        self._repertoire = Repertoire(options)
        self.batches = batches.MockBatches(options.name, self._answer_one)
        self._set_fail = set_fail
        self._dice = random.Random(options.seed)  # noqa: S311  the dice of faults, no secret

    def reply(self, request: MockRequest) -> MockReply:
        """Return what to play for `request`."""
        if request.path.startswith(CONTROL):
            return self._plain(request, self._control(request))
        path = request.path.removeprefix("/v1")
        if request.method == "HEAD":
            return MockReply(
                plan=AnswerPlan(head=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", frames=())
            )
        if request.method == "GET" and request.path == HEALTH:
            return self._plain(request, single({}))
        if not self._admits(request):
            return self._refuse(request, rejections.reject(401))
        return self._route(request, path.removeprefix("/"))

    def _route(self, request: MockRequest, path: str) -> MockReply:
        if path.startswith(batches.ROOTS):
            return self._kept(request, path)
        lists_models = path == "models" or path.startswith("models/")
        if not lists_models and path not in ENDPOINTS:
            return self._refuse(request, rejections.reject(404, "Invalid URL."))
        if request.method != ("GET" if lists_models else "POST"):
            return self._refuse(request, rejections.reject(405))
        return self._models(request, path) if lists_models else self._call(request, path)

    def _kept(self, request: MockRequest, path: str) -> MockReply:
        fault = faults.choose(self.faults, self._dice.random)
        content_type = request.headers.get(b"content-type", b"").decode("latin-1")
        answer = self.batches.reply(request.method, path, content_type, request.body)
        if fault is None:
            return self._plain(request, answer)
        return MockReply(plan=self._plan(request, faults.distort(answer, fault), fault))

    def _answer_one(self, endpoint: str, body: bytes) -> dict[str, Any]:
        """Return the answer to one request of a batch."""
        answer = self._repertoire.render(parse(endpoint, "application/json", body))
        answered: dict[str, Any] = msgspec.json.decode(join_body(answer)[0])
        return answered

    def _call(self, request: MockRequest, endpoint: str) -> MockReply:
        if endpoint in ANTHROPIC and b"anthropic-version" not in request.headers:
            return self._refuse(request, rejections.reject(400, "anthropic-version: is required"))
        content_type = request.headers.get(b"content-type", b"").decode("latin-1")
        try:
            scene = self._repertoire.perform(
                endpoint, content_type, request.body, chunked=request.chunked
            )
            fault = self._fault(request, scene.question.model)
        except QuestionError as error:
            return self._refuse(request, rejections.reject(400, error.message))
        except ValueError as error:
            return self._refuse(request, rejections.reject(400, str(error)))
        if fault is not None:
            return self._spoil(request, scene.question, fault)
        return MockReply(plan=scene.plan, served=self._served(request, scene.question))

    def _spoil(self, request: MockRequest, question: MockQuestion, fault: MockFault) -> MockReply:
        question = faults.rephrase(question, fault)
        answer = faults.distort(self._repertoire.render(question), fault)
        if question.endpoint in ANTHROPIC:
            answer = refuse(answer)
        served = self._served(request, question)
        served.fault = fault.text
        if answer.status >= 400:
            # No provider charges a prompt that it refused.
            served.status = answer.status
            served.prompt_tokens = served.cached_tokens = 0
        return MockReply(plan=self._plan(request, answer, fault), served=served)

    def _models(self, request: MockRequest, path: str) -> MockReply:
        name = unquote(path.removeprefix("models").removeprefix("/"))
        answer = show_model(name, self._options) if name else list_models(self._options)
        fault = faults.choose(self.faults, self._dice.random)
        if fault is None:
            return self._plain(request, answer)
        return MockReply(plan=self._plan(request, faults.distort(answer, fault), fault))

    def _plan(self, request: MockRequest, answer: MockAnswer, fault: MockFault) -> AnswerPlan:
        return bend(fault.mode, fault.arg, answer, self._style(request))

    def _style(self, request: MockRequest) -> Style:
        return Style(server=self._options.name, chunked=request.chunked)

    def _fault(self, request: MockRequest, model: str) -> MockFault | None:
        """Return the fault that this request asks for, or else one of those in force.

        Raises:
            ValueError: The request asks for one that does not exist.
        """
        asked = request.headers.get(b"x-mock-fail", b"").decode("latin-1")
        if not asked and model.startswith(faults.MODEL_PREFIX):
            asked = model.removeprefix(faults.MODEL_PREFIX)
        wanted = (faults.parse(asked),) if asked else self.faults
        return faults.choose(wanted, self._dice.random)

    def _served(self, request: MockRequest, question: MockQuestion) -> ServedRecord:
        return ServedRecord(
            n=self._record.begin(),
            request_id=request.headers.get(b"x-request-id", b"").decode("latin-1"),
            endpoint=question.endpoint,
            model=question.model,
            stream=question.stream,
            resume=question.resume,
            prompt_tokens=question.prompt_tokens,
            cached_tokens=cached_tokens(question, self._options),
        )

    def _admits(self, request: MockRequest) -> bool:
        if not self._options.api_key:
            return True
        key = self._options.api_key.encode()
        if request.headers.get(b"x-api-key") == key:
            return True
        bearer = request.headers.get(b"authorization", b"")
        # Anthropic takes a Bearer token as well, but not for a key of its console.
        return b"anthropic-version" not in request.headers and bearer == b"Bearer " + key

    def _control(self, request: MockRequest) -> MockAnswer:
        match request.method, request.path.removeprefix(CONTROL):
            case "GET", "served":
                return single(self._record.served)
            case "DELETE", "served":
                self._record.clear()
                return single(self._record.state)
            case "GET", "state":
                return single(self._record.state)
            case "POST", "fail":
                return self._change_faults(request.body)
        return rejections.reject(404, "The mock has no such control.")

    def _change_faults(self, body: bytes) -> MockAnswer:
        try:
            wanted = msgspec.json.decode(body, type=_Fail).fail
            self._set_fail(*([wanted] if isinstance(wanted, str) else wanted or []))
        except (msgspec.MsgspecError, ValueError) as error:
            return rejections.reject(400, str(error))
        return single(self._record.state)

    def _refuse(self, request: MockRequest, answer: MockAnswer) -> MockReply:
        self._record.reject()
        if b"anthropic-version" in request.headers:
            answer = refuse(answer)
        return self._plain(request, answer)

    def _plain(self, request: MockRequest, answer: MockAnswer) -> MockReply:
        return MockReply(plan=lay_out(answer, self._style(request)))


class _Fail(msgspec.Struct):
    fail: str | list[str] | None
