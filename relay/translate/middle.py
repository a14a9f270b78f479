"""The middle form of a request: what the four dialects have in common, and what one of them has.

A dialect's reader makes an `Ask` of a body, a dialect's writer makes a body of it. What a writer
cannot say is either raised as `Refused`, where the answer would be another one without it, or
noted in `Ask.dropped`, where it would not. Nothing is lost without one of the two.

Values that only one dialect understands are never put into another's fields.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from relay.errors import BadRequest

JsonObject = dict[str, Any]
Lookup = Callable[[str], str | None]
"""A client's call id -> what was kept of the thinking before that call, None where nothing was."""


DROPPED_MAX: Final = 64
"""Names of fields that are listed; a body can hold any number."""
CUT_STOPS_MAX: Final = 16
CUT_CHARS_MAX: Final = 256
"""Every piece of an answer is searched for the beginning of each of them."""


class TranslateDialect(enum.Enum):
    """A way of writing generative requests and answers."""

    OPENAI_CHAT = "openai_chat"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    RESPONSES = "responses"


class Refused(BadRequest):
    """400: the call holds something that the dialect of its route has no way to say.

    `param` names it in the client's own dialect.
    """

    code: str | None = "not_available_on_this_route"


class Role(enum.Enum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    MODEL = "model"


class MediaKind(enum.Enum):
    """What a medium is, as far as a dialect tells them apart."""

    IMAGE = "image"
    DOCUMENT = "document"
    AUDIO = "audio"
    VIDEO = "video"


@dataclass
class Text:
    """Words. `cache`: a cache ends here, for "5m" or "1h"; None = none does."""

    text: str
    cache: str | None = None


@dataclass
class Media:
    """An image, a document, a sound: `data` in base64, or an address, or (documents) plain text."""

    kind: MediaKind
    param: str
    mime: str = ""
    data: str = ""
    url: str = ""
    text: str = ""
    title: str = ""
    detail: str = ""
    cache: str | None = None


@dataclass
class Call:
    """The model calls a function. `arguments`: a JSON object as text.

    `kept`: what the target's own dialect said before this call when it was made, word for word.
    """

    id: str
    name: str
    arguments: str
    cache: str | None = None
    custom: bool = False
    """Its only argument is free text (Responses' custom tools)."""
    kept: list[JsonObject] = field(default_factory=list)


Shown = Text | Media


@dataclass
class Result:
    """What a function returned. `name` is looked up where a dialect gives the call's id alone."""

    call_id: str
    parts: list[Shown]
    param: str
    name: str = ""
    is_error: bool = False
    cache: str | None = None


@dataclass
class Declined:
    """The model's words for not answering."""

    text: str


Part = Text | Media | Call | Result | Declined


@dataclass
class Turn:
    """All that one side says before the other does; results are the user's."""

    role: Role
    parts: list[Part]
    developer: bool = False
    """A system turn that was written as a developer's."""


@dataclass
class Tool:
    """A function that the model may call. `custom`: it takes free text, no JSON."""

    name: str
    description: str | None
    schema: JsonObject | None
    strict: bool | None = None
    cache: str | None = None
    custom: bool = False


class ChoiceMode(enum.Enum):
    """Whether the model must call."""

    AUTO = "auto"
    ANY = "any"
    NONE = "none"


@dataclass
class ToolChoice:
    """`names`: the only functions it may call; empty = all."""

    mode: ChoiceMode
    names: list[str] = field(default_factory=list)


@dataclass
class OutputFormat:
    """JSON is wanted: of a schema, or (None) any."""

    param: str
    schema: JsonObject | None = None
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None


@dataclass
class Thinking:
    """How much the model should think. `enabled` None: it may choose (adaptive, dynamic).

    `shown`: the client wants to read it.
    """

    param: str
    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    shown: bool = False


@dataclass
class Sampling:
    """How the next token is chosen; None = the model's own way."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass
class Upstream:
    """What the caller knows of the model and the server that will answer.

    `model`: its name there. `output_tokens_max`: sent where a dialect wants a bound and the client
    gave none.
    `breakpoints`: set cache breakpoints where the client's dialect caches by itself.
    `legacy_max_tokens`: the server knows chat's `max_tokens` alone. `json_schema_tools`: False
    where a Gemini server takes pruned OpenAPI schemas only. `adaptive_thinking`: the Claude model
    takes an effort in place of a budget. `include_usage`: False where a chat server refuses
    `stream_options`. `takes_sampling`: False where the model refuses a temperature and its like.
    """

    model: str
    output_tokens_max: int = 8192
    breakpoints: bool = True
    legacy_max_tokens: bool = False
    json_schema_tools: bool = True
    adaptive_thinking: bool = False
    include_usage: bool = True
    takes_sampling: bool = True
    cache_key: str | None = None
    """The session that a prompt cache should be chosen by, where the body names none."""


@dataclass
class Ask:
    """A request in the middle form."""

    source: TranslateDialect
    target: TranslateDialect
    model: str
    stream: bool = False
    turns: list[Turn] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    choice: ToolChoice | None = None
    parallel: bool | None = None
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: list[str] = field(default_factory=list)
    format: OutputFormat | None = None
    thinking: Thinking | None = None
    logprobs: int | None = None
    """How many alternatives a token is reported with; None = none are reported."""
    cache_key: str | None = None
    user: str | None = None
    tier: str | None = None
    verbosity: str | None = None
    include_usage: bool = True
    """The client wants usage in its stream; only chat clients have to ask for it."""
    names: dict[str, str] = field(default_factory=dict)
    """What the client's dialect calls a thing of ours, for `param` and the list of the dropped."""
    dropped: list[str] = field(default_factory=list)
    cut_stops: list[str] = field(default_factory=list)
    """Stop sequences that the upstream cannot be told of: the answer is cut at them."""
    echoed: str | None = None
    """Where the client sent thinking back; the target's own is looked up by the calls instead."""

    def drop(self, what: str) -> None:
        """Note that `what` does not reach the model."""
        if what not in self.dropped and len(self.dropped) < DROPPED_MAX:
            self.dropped.append(what)

    def cut_at(self, stops: list[str]) -> None:
        """Have the answer cut at some stop sequences.

        Raises:
            Refused: CLIENT; too many, or beside log probabilities, which what is cut has none of.
        """
        if stops and self.logprobs is not None:
            raise self.refuse("stop", "not beside log probabilities")
        if len(stops) > CUT_STOPS_MAX or any(len(stop) > CUT_CHARS_MAX for stop in stops):
            raise self.refuse("stop", f"more than {CUT_STOPS_MAX}, or one too long")
        self.cut_stops.extend(stop for stop in stops if stop)

    def drop_error_flags(self) -> None:
        """Note that results are told apart from failures by their words alone."""
        for turn in self.turns:
            if any(isinstance(part, Result) and part.is_error for part in turn.parts):
                self.drop_named("is_error")

    def drop_sampling(self) -> None:
        """Leave out how the next token is chosen: the model refuses to be told."""
        sampling = self.sampling
        for name in ("temperature", "top_p", "top_k"):
            if getattr(sampling, name) is not None:
                self.drop_named(name)
        sampling.temperature = sampling.top_p = sampling.top_k = None

    def drop_details(self) -> None:
        """Note that nothing can be said of how closely an image is to be looked at."""
        for turn in self.turns:
            for part in turn.parts:
                shown = part.parts if isinstance(part, Result) else [part]
                if any(isinstance(one, Media) and one.detail not in _PLAIN for one in shown):
                    self.drop_named("detail")

    def drop_unknown(self, fields: JsonObject, known: frozenset[str], path: str) -> None:
        """Note the members of an object that nobody here knows."""
        if not fields.keys() <= known:
            for name in fields.keys() - known:
                self.drop(f"{path}.{name}" if path else name)

    def drop_named(self, what: str) -> None:
        """Note the same of a thing by the name that it has in the client's dialect."""
        self.drop(self.names.get(what, what))

    def refuse(self, what: str, why: str = "") -> Refused:
        """Return the error that names `what` in the client's dialect, to be raised."""
        return refusal(self.names.get(what, what), why)

    @property
    def marked(self) -> bool:
        """Whether the client itself said where a cache ends."""
        tools = any(tool.cache for tool in self.tools)
        return tools or any(
            part.cache
            for turn in self.turns
            for part in turn.parts
            if not isinstance(part, Declined)
        )


_PLAIN: Final = frozenset({"", "auto"})
SUBJECT: Final = "is not available on this route"


def refusal(param: str, why: str = "") -> Refused:
    """Return the error for a field that the route cannot carry."""
    return Refused(f"{param} {SUBJECT}{': ' + why if why else ''}.", param=param)


def join_turns(turns: list[Turn]) -> list[Turn]:
    """Return the turns with neighbours of one side made one, results before all else in theirs.

    All dialects but Anthropic's and Gemini's write them apart; these two refuse or misread that.
    """
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else None
        if last is not None and last.role is turn.role and turn.role is not Role.SYSTEM:
            last.parts.extend(turn.parts)
        else:
            joined.append(Turn(turn.role, list(turn.parts), turn.developer))
    for turn in joined:
        if turn.role is Role.USER and any(isinstance(part, Result) for part in turn.parts):
            turn.parts.sort(key=_behind_results)
    return [turn for turn in joined if turn.parts]


def _behind_results(part: Part) -> bool:
    return not isinstance(part, Result)


def leading_system(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """Return the system turns that come first, and all others."""
    count = 0
    while count < len(turns) and turns[count].role is Role.SYSTEM:
        count += 1
    return turns[:count], turns[count:]


def all_text(parts: list[Part], joint: str = "") -> str:
    """Return the words of some parts as one text."""
    return joint.join(part.text for part in parts if isinstance(part, Text) and part.text)


def open_call_turn(turns: list[Turn]) -> Turn | None:
    """Return the model's turn whose calls were just answered, None outside of a tool loop."""
    if len(turns) < 2 or turns[-1].role is not Role.USER or turns[-2].role is not Role.MODEL:
        return None
    if not any(isinstance(part, Result) for part in turns[-1].parts):
        return None
    return turns[-2]
