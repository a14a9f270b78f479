"""The matrix of docs/translation.md: every cell is tried out, and says what came of it.

Method: a client's request and an upstream's answer, both literal, through the floor and back into
the middle form; a cell passes where the feature is still there.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from relay.translate import (
    Refused,
    StreamTranslator,
    TranslateDialect,
    translate_answer,
    translate_error,
    translate_request,
)
from relay.translate.middle import Ask, Call, Media, Result, Text
from tests.pure.translate.fields_table import render_fields
from tests.pure.translate.reading import (
    TERMS,
    UPSTREAM,
    meaning,
    read_body,
    read_request,
    read_stream,
)
from tests.pure.translate.samples import (
    BODIES,
    DIALECTS,
    ERRORS,
    FEATURES,
    GEMINI,
    REQUESTS,
    STREAM_ERRORS,
    STREAMS,
)

NAMES: Final = {
    TranslateDialect.OPENAI_CHAT: "OpenAI chat",
    TranslateDialect.ANTHROPIC: "Anthropic",
    TranslateDialect.GEMINI: "Gemini",
    TranslateDialect.RESPONSES: "Responses",
}
COLUMNS: Final = (*FEATURES, "error", "cut stream")


def _parts(ask: Ask, kind: type) -> list[Any]:
    return [part for turn in ask.turns for part in turn.parts if isinstance(part, kind)]


def _has_text(ask: Ask) -> bool:
    words = [part.text for part in _parts(ask, Text)]
    return words == ["Be short.", "Weather in Paris?"] and ask.max_tokens == 4096


def _has_image(ask: Ask) -> bool:
    return [part.mime for part in _parts(ask, Media)] == ["image/png"]


def _has_calls(ask: Ask, count: int) -> bool:
    calls = [(part.id, json.loads(part.arguments)) for part in _parts(ask, Call)]
    results = [(part.call_id, part.parts[0].text) for part in _parts(ask, Result)]
    return (
        calls == [(f"call_{n}", {"city": f"P{n}"}) for n in range(count)]
        and results == [(f"call_{n}", f"Rain {n}.") for n in range(count)]
        and [tool.name for tool in ask.tools] == ["weather"]
    )


def _has_schema(ask: Ask) -> bool:
    return ask.format is not None and ask.format.schema is not None


def _has_thinking(ask: Ask) -> bool:
    return ask.thinking is not None and ask.thinking.enabled is not False


def _has_cache(ask: Ask) -> bool:
    return ask.marked or ask.cache_key is not None


CHECKS: Final[dict[str, Callable[[Ask], bool]]] = {
    "text": _has_text,
    "image": _has_image,
    "tools": lambda ask: _has_calls(ask, 1),
    "parallel tools": lambda ask: _has_calls(ask, 2),
    "structured output": _has_schema,
    "thinking": _has_thinking,
    "cache": _has_cache,
}


def cell(client: TranslateDialect, upstream: TranslateDialect, feature: str, how: str) -> str:
    """Return what comes of one cell: native, passes, what is dropped, or the field refused."""
    if client is upstream:
        return "native"
    if feature in {"error", "cut stream"}:
        return _broken(client, upstream, feature, how)
    body = REQUESTS[client](feature)
    if how == "stream" and client is not GEMINI:
        body["stream"] = True
    try:
        request = translate_request(client, upstream, body, UPSTREAM, stream=how == "stream")
    except Refused as refused:
        return f"400 {refused.param}"
    dropped = list(request.dropped)
    if not CHECKS[feature](read_request(upstream, request.body)) and not _caches_itself(
        upstream, feature
    ):
        return "LOST in the request"
    if not _answer_passes(client, upstream, feature, how):
        return "LOST in the answer"
    return f"passes, drops {', '.join(dropped)}" if dropped else "passes"


def _caches_itself(upstream: TranslateDialect, feature: str) -> bool:
    """Gemini, and OpenAI's two without a key, cache without being told."""
    return feature == "cache" and upstream is not TranslateDialect.ANTHROPIC


def _answer_passes(
    client: TranslateDialect, upstream: TranslateDialect, feature: str, how: str
) -> bool:
    if how == "stream":
        source = STREAMS[upstream](feature)
        translator = StreamTranslator(upstream, client, TERMS)
        out = translator.feed(source) + translator.end()
        return meaning(read_stream(client, out)) == meaning(read_stream(upstream, source))
    source = BODIES[upstream](feature)
    answer = translate_answer(upstream, client, source, TERMS)
    return answer.status == 200 and meaning(read_body(client, answer.body)) == meaning(
        read_body(upstream, source)
    )


def _broken(client: TranslateDialect, upstream: TranslateDialect, feature: str, how: str) -> str:
    """Try an error, or a stream (a body) that ends early: both must reach the client as errors."""
    if how == "JSON":
        if feature == "error":
            body = json.dumps(ERRORS[upstream]).encode()
            out = translate_error(client, 429, body)
            said = read_body(client, out).trouble
            return "passes" if said is not None and said.message == "Slow down." else "LOST"
        answer = translate_answer(upstream, client, BODIES[upstream]("text")[:-20], TERMS)
        cut = read_body(client, answer.body).trouble is not None and answer.status == 502
        return "passes" if cut else "LOST"
    translator = StreamTranslator(upstream, client, TERMS)
    events = STREAMS[upstream]("text").replace(b"\r\n", b"\n").split(b"\n\n")
    begun = b"\n\n".join(events[:2]) + b"\n\n"
    rest = STREAM_ERRORS[upstream] if feature == "error" else b""
    if feature == "cut stream" and upstream is GEMINI:
        begun = events[0] + b"\n\n"
    out = translator.feed(begun) + translator.feed(rest) + translator.end()
    read = read_stream(client, out)
    wanted = "Slow down." if feature == "error" else "The upstream ended its answer early."
    whole = read.trouble is not None and read.trouble.message == wanted and read.ending is None
    return "passes" if whole else "LOST"


def render() -> str:
    """Return the matrix as two tables in Markdown."""
    lines: list[str] = []
    for how in ("stream", "JSON"):
        lines += ["", f"### {how}", "", "| client > upstream | " + " | ".join(COLUMNS) + " |"]
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for client in DIALECTS:
            for upstream in DIALECTS:
                cells = [cell(client, upstream, feature, how) for feature in COLUMNS]
                head = f"{NAMES[client]} > {NAMES[upstream]}"
                lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "translation.md"


def tables() -> dict[str, str]:
    """Return what stands between each pair of marks in the document."""
    return {"matrix": render(), "fields": render_fields(NAMES)}


def between_marks(text: str, name: str) -> tuple[str, str, str]:
    """Return the text before, between and after a pair of marks."""
    head, mark, rest = text.partition(f"<!-- translate.{name}: begin -->\n")
    inner, end, tail = rest.partition(f"<!-- translate.{name}: end -->")
    return head + mark, inner, end + tail


def main() -> None:
    """Write the tables into the document."""
    text = DOCUMENT.read_text("utf-8")
    for name, table in tables().items():
        head, _, tail = between_marks(text, name)
        text = head + table + tail
    DOCUMENT.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
