"""Goal: whatever costs more than tokens is seen in a request, however it is spelled.

Method: bodies that ask for something and their relatives; fields taken out leave the rest alone.
"""

import json
from typing import Any

import msgspec
import pytest

from relay.billing.unpriced import unpriced_fields, unpriced_unit, without
from relay.extras import NOTHING_ASKED, REACHES_OUT, Asked
from relay.model import ImagePrice, Price, PriceDetail, ServiceTier, VideoPrice
from relay.records import Endpoint
from relay.wire.request.asked import (
    HOUR_CACHE,
    SEARCHES_MAX,
    asks_for_an_hour,
    holds_escape,
    read_asked,
    read_form,
    strip_fields,
)
from relay.wire.request.json_request import peek_json
from relay.wire.request.multipart import peek_multipart

SEARCH = Asked(searches=SEARCHES_MAX)


def read(body: dict[str, Any] | bytes, endpoint: Endpoint = Endpoint.CHAT) -> Asked:
    raw = body if isinstance(body, bytes) else json.dumps({"model": "m", **body}).encode()
    request = peek_json(raw, endpoint)
    return read_asked(request.fields, endpoint, raw, request.n)


def tool(kind: str) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": kind}]}


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"messages": []}, NOTHING_ASKED),
        ({"service_tier": "auto", "speed": "standard"}, NOTHING_ASKED),
        ({"service_tier": "priority"}, Asked(tier="priority")),
        ({"service_tier": "Flex"}, Asked(tier="flex")),
        ({"speed": "fast"}, Asked(tier="fast")),
        (
            b'{"model":"m","ser\\u0076ice_tier":"pri\\u006frity"}',
            Asked(tier="priority", reaches_out=True),
        ),
        (tool("function"), NOTHING_ASKED),
        (tool("bash_20250124"), NOTHING_ASKED),
        (tool("web_search"), SEARCH),
        (tool("web_search_20260101"), SEARCH),
        (tool("file_search"), SEARCH),
        (tool("a_tool_of_next_year"), SEARCH),
        (
            b'{"model":"m","tools":[{"ty\\u0070e":"web\\u005fsearch"}]}',
            Asked(searches=SEARCHES_MAX, reaches_out=True),
        ),
        (tool("code_interpreter"), Asked(sessions=1)),
        (tool("code_execution_20260101"), Asked(sessions=1)),
        (tool("image_generation"), Asked(makes_pictures=True)),
        ({"web_search_options": {}}, SEARCH),
        ({"search_parameters": {"mode": "on"}}, SEARCH),
        ({"enable_search": True}, SEARCH),
        ({"enable_search": False}, NOTHING_ASKED),
        ({"plugins": [{"id": "web"}]}, Asked(searches=SEARCHES_MAX, reaches_out=False)),
        ({"tools": "nonsense"}, SEARCH),
        ({"tools": [None, 5]}, SEARCH),
        ({"tools": [None, {"type": "web_search"}]}, SEARCH),
        ({"tools": [{"type": 5}]}, SEARCH),
        # Anthropic's own have no type, Gemini's have a member instead of one.
        ({"tools": [{"name": "f", "input_schema": {"type": "object"}}]}, NOTHING_ASKED),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}]}, NOTHING_ASKED),
        ({"tools": [{"function_declarations": []}, {"codeExecution": {}}]}, NOTHING_ASKED),
        ({"tools": [{"urlContext": {}}, {"file_search": {}}, {}]}, NOTHING_ASKED),
        ({"tools": [{"googleSearch": {}}]}, SEARCH),
        ({"tools": [{"google_search": {}}]}, SEARCH),
        ({"tools": {"googleSearch": {}}}, SEARCH),
        ({"tools": [{"functionDeclarations": [], "googleSearchRetrieval": {}}]}, SEARCH),
        ({"tools": [{"googleMaps": {}}]}, SEARCH),
        ({"tools": [{"enterpriseWebSearch": {}}]}, SEARCH),
        ({"tools": [{"aToolOfNextYear": {}}]}, SEARCH),
        (
            b'{"model":"m","tools":[{"goo\\u0067leSearch":{}}]}',
            Asked(searches=SEARCHES_MAX, reaches_out=True),
        ),
        ({"serviceTier": "flex"}, Asked(tier="flex")),
        ({"service_tier": "SERVICE_TIER_PRIORITY"}, Asked(tier="priority")),
        ({"serviceTier": "SERVICE_TIER_UNSPECIFIED"}, NOTHING_ASKED),
        ({"previous_response_id": "resp_1"}, REACHES_OUT),
        ({"messages": [{"content": [{"image_url": "https://a/b.png"}]}]}, REACHES_OUT),
    ],
)
def test_what_a_request_asks_for(body: dict[str, Any] | bytes, asked: Asked) -> None:
    assert read(body) == asked
    if asked in (NOTHING_ASKED, REACHES_OUT):
        assert read(body) is asked  # the hot path tells them by that


@pytest.mark.parametrize("ttl", [b'"1h"', b'"\\u0031h"', b'"1\\u0068"'])
def test_a_cache_for_an_hour_is_seen(ttl: bytes) -> None:
    body = b'{"model":"m","system":[{"cache_control":{"ttl":%b}}]}' % ttl
    assert asks_for_an_hour(peek_json(body, Endpoint.MESSAGES).fields)
    short = peek_json(body.replace(ttl, b'"5m"'), Endpoint.MESSAGES)
    assert not asks_for_an_hour(short.fields)


@pytest.mark.parametrize(
    ("body", "endpoint", "asked"),
    [
        ({"prompt": "a", "n": 4, "quality": "HD", "size": "1024x1024"}, Endpoint.IMAGES,
         Asked(images=4, image_class="hd 1024x1024")),
        ({"prompt": "a"}, Endpoint.IMAGES, Asked(images=1)),
        ({"input": "h\u00e9llo"}, Endpoint.SPEECH, Asked(characters=5)),
        ({"input": 7}, Endpoint.SPEECH, Asked()),
        ({"documents": ["a"] * 101}, Endpoint.RERANK, Asked(search_units=2)),
        ({}, Endpoint.RERANK, Asked(search_units=1)),
    ],
)  # fmt: skip
def test_media_are_counted_by_the_request(
    body: dict[str, Any], endpoint: Endpoint, asked: Asked
) -> None:
    assert read(body, endpoint) == asked


def form(**fields: bytes) -> Any:
    parts = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in {"model": b"m", **fields}.items()
    )
    return peek_multipart(parts + b"--b--\r\n", "multipart/form-data; boundary=b")


def test_forms_are_counted_too() -> None:
    edited = form(n=b"3", quality=b"high", size=b"auto", image=b"x" * 50)
    assert read_form(edited, Endpoint.IMAGE_EDITS) == Asked(images=3, image_class="high auto")
    assert read_form(edited, Endpoint.IMAGE_VARIATIONS).images == 3
    sound = form(file=b"x" * 8_000, response_format=b"srt")
    assert read_form(sound, Endpoint.TRANSCRIPTIONS) == Asked(audio_ms=2_000, silent_format=True)
    head = b"RIFF....WAVEfmt " + b"\0" * 12 + (32_000).to_bytes(4, "little")
    wave = form(file=head + b"x" * (64_000 - len(head)))
    assert read_form(wave, Endpoint.TRANSCRIPTIONS) == Asked(audio_ms=2_000)
    assert read_form(wave, Endpoint.TRANSLATIONS) == Asked(audio_ms=2_000)


PLAIN = Price(id=1, model="m", input=1, output=1, cached_input=1)
DETAIL = PriceDetail(
    service_tiers=(ServiceTier(name="priority", input=2, output=2, cached_input=2),),
    per_search=1,
    per_session=1,
    cache_write_1h=1,
)


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        (NOTHING_ASKED, ()),
        (Asked(tier="priority"), ("service_tier",)),
        (Asked(searches=1), ("tools.web_search",)),
        (Asked(sessions=1), ("tools.code_interpreter",)),
        (Asked(hour_cache=True), ("cache_control.ttl",)),
    ],
)
def test_what_has_no_price_is_named(asked: Asked, fields: tuple[str, ...]) -> None:
    assert unpriced_fields(asked, PLAIN) == fields
    assert unpriced_fields(asked, msgspec.structs.replace(PLAIN, detail=DETAIL)) == ()
    assert not unpriced_fields(without(asked, fields), PLAIN)


def test_other_tiers_and_pictures_are_named_whatever_the_price() -> None:
    price = msgspec.structs.replace(PLAIN, detail=DETAIL)
    assert unpriced_fields(Asked(tier="flex"), price) == ("service_tier",)
    assert unpriced_fields(Asked(makes_pictures=True), price) == ("tools.image_generation",)
    free = msgspec.structs.replace(PLAIN, input=0, output=0)
    assert unpriced_fields(Asked(silent_format=True), free) == ("response_format",)
    assert unpriced_fields(Asked(silent_format=True), PLAIN) == ()


@pytest.mark.parametrize(
    ("endpoint", "unit", "detail"),
    [
        (Endpoint.IMAGES, "images", PriceDetail(per_image=1)),
        (Endpoint.IMAGE_EDITS, "images", PriceDetail(image_classes=(ImagePrice(each=1),))),
        (Endpoint.IMAGE_VARIATIONS, "images", PriceDetail(per_image=1)),
        (Endpoint.TRANSLATIONS, "seconds of sound", PriceDetail(per_second=1)),
        (Endpoint.SPEECH, "characters", PriceDetail(character=1)),
        (Endpoint.TRANSCRIPTIONS, "seconds of sound", PriceDetail(per_second=1)),
        (Endpoint.RERANK, "search units", PriceDetail(per_search_unit=1)),
        (Endpoint.VIDEOS, "seconds of video", PriceDetail(per_video_second=1)),
        (
            Endpoint.VIDEO_REMIX,
            "seconds of video",
            PriceDetail(video_classes=(VideoPrice(per_second=1),)),
        ),
    ],
)
def test_a_model_is_charged_by_the_unit_of_its_endpoint(
    endpoint: Endpoint, unit: str, detail: PriceDetail
) -> None:
    free = Price(id=1, model="m", input=0, output=0, cached_input=0)
    assert unpriced_unit(endpoint, free) == unit
    assert unpriced_unit(endpoint, msgspec.structs.replace(free, detail=detail)) is None
    assert unpriced_unit(endpoint, msgspec.structs.replace(free, per_call=1)) is None
    assert unpriced_unit(Endpoint.CHAT, free) is None


def test_what_is_taken_out_leaves_the_rest() -> None:
    body = {"model": "m", "service_tier": "flex", "tool_choice": "auto", **tool("web_search")}
    fields = peek_json(json.dumps(body).encode(), Endpoint.CHAT).fields
    kept = strip_fields(fields, frozenset({"service_tier", "tools"}))
    assert kept is not None and kept.keys() == {"model", "tool_choice", "tools"}
    assert json.loads(bytes(kept["tools"])) == [{"type": "function", "function": {"name": "f"}}]
    only = peek_json(b'{"model":"m","tools":[{"type":"x"}],"tool_choice":"auto"}', Endpoint.CHAT)
    assert (strip_fields(only.fields, frozenset({"tools"})) or {}).keys() == {"model"}


def test_of_geminis_tools_the_searches_are_taken_out() -> None:
    declared = [{"name": "f"}]
    tools = [{"functionDeclarations": declared, "googleSearch": {}}, {"googleMaps": {}}]
    for given in (tools, tools[0]):
        fields = peek_json(
            json.dumps({"model": "m", "tools": given}).encode(), Endpoint.CHAT
        ).fields
        kept = strip_fields(fields, frozenset({"tools"}))
        assert kept is not None
        assert json.loads(bytes(kept["tools"])) == [{"functionDeclarations": declared}]
    only = peek_json(b'{"model":"m","tools":{"googleSearch":{}}}', Endpoint.CHAT)
    assert (strip_fields(only.fields, frozenset({"tools"})) or {}).keys() == {"model"}


def test_of_tools_without_end_one_is_taken_for_a_search() -> None:
    body = {"model": "m", "tools": [{"name": "f"}] * 5_000}
    assert read(body) == SEARCH
    fields = peek_json(json.dumps(body).encode(), Endpoint.CHAT).fields
    assert strip_fields(fields, frozenset({"tools"})) is not None


def test_an_hour_becomes_five_minutes_or_cannot_be_taken_out() -> None:
    plain = (
        b'{"model":"m","system":[{"text":"say \\"ttl\\": \\"1h\\"","cache_control":{"ttl":"1h"}}]}'
    )
    fields = peek_json(plain, Endpoint.MESSAGES).fields
    kept = strip_fields(fields, frozenset({HOUR_CACHE}))
    assert kept is not None
    system = json.loads(bytes(kept["system"]))
    assert system == [{"text": 'say "ttl": "1h"', "cache_control": {"ttl": "5m"}}]
    odd = peek_json(plain.replace(b'"1h"}', b'"\\u0031h"}'), Endpoint.MESSAGES).fields
    assert strip_fields(odd, frozenset({HOUR_CACHE})) is None


@pytest.mark.parametrize(
    "content",
    [rb'{"file\u005fid":"file-abc"}', rb'{"f":"https:\u002f\u002fx"}', rb'{"file_\u0069d":"a"}'],
)
def test_no_spelling_of_json_hides_that_something_is_elsewhere(content: bytes) -> None:
    body = b'{"model":"m","messages":[%b]}' % content
    assert read(body).reaches_out
    assert not read(rb'{"model":"m","messages":["caf\u00e9 \u003c \u4e2d"]}').reaches_out


@pytest.mark.parametrize(
    ("tools", "count"),
    [(b'[{"type":"web_search"},5]', 2), (b'"web_search"', 1), (b"7", 1), (b"[[]]", 1)],
)
def test_tools_that_cannot_be_read_cost_what_a_search_does(tools: bytes, count: int) -> None:
    body = b'{"model":"m","messages":[],"tools":%b}' % tools
    assert read(body).searches == SEARCHES_MAX
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    left = strip_fields(fields, frozenset({"tools"}))
    assert left is not None and left.get("tools", b"[]") in (b"[]", msgspec.Raw(b"[]"))


@pytest.mark.parametrize("tier", [b'["priority"]', b"7", b'{"a":1}'])
def test_a_tier_that_cannot_be_read_is_one_without_a_price(tier: bytes) -> None:
    assert read(b'{"model":"m","messages":[],"service_tier":%b}' % tier).tier == "unread"
    assert read(b'{"model":"m","messages":[],"service_tier":null}').tier == ""


@pytest.mark.parametrize(
    ("body", "there"),
    [
        (b"", False),
        (b"00", False),
        (b"u00", False),
        (b"\\u00", True),
        (b"\\u000a", True),
        (b"\\u0000", True),
        (b"x\\u00e9" + b"1000 " * 9_000, True),
        (b"0" * 9_000 + b"\\u0069" + b"0" * 9_000, True),
        (b"0" * 9_000 + b"\\u0169" + b"0" * 9_000, False),
        (b"\\u00" * 100, True),
        (b"1000 " * 9_000, False),
        (b"\\\\u 00 \\u0 0" * 9_000, False),
    ],
)
def test_an_escape_is_found_however_many_zeros_there_are(body: bytes, there: bool) -> None:
    assert holds_escape(body) is there is (body.find(b"\\u00") >= 0)
