"""Random calls: what each really used, and the bytes by which client and upstream say so."""

import json
import random
from decimal import Decimal
from typing import Any, NamedTuple

from relay.records import Endpoint
from tests.oracle.opinion import PriceList, Used

CHAT_SHAPES = ("openai", "xai", "gemini", "deepseek", "groq", "floats", "strings", "together")
TEXT = ("Streams", " go", " out", " as", " they", " come", ",", " byte", " for", " byte", ".")
VIDEO_SIZES = ("720x1280", "1024x1792")
WORD_TOKENS = 1


class Asked(NamedTuple):
    """One call: its request, the events or the body of its answer, and where it breaks off.

    `used`: what it really used; where not `says`, its tokens have to be estimated. `cut`: after so
    many events its client leaves, 0: before any; None: it stays. `told_input`: whether the prompt
    was told before the break. `model`: where the path names it.
    """

    endpoint: Endpoint
    body: bytes
    events: list[bytes]
    cut: int | None
    used: Used
    says: bool
    text_tokens: int
    model: str = ""
    told_input: bool = False


def usd(dice: random.Random, most: int = 50) -> str:
    """Return an amount as an operator writes it."""
    digits = dice.choice((0, 1, 2, 3, 6))
    return str(Decimal(dice.randint(1, most * 10**digits)).scaleb(-digits))


def make_price(dice: random.Random) -> PriceList:
    """Return a price; a random part of what can be told apart is."""
    words = {name: usd(dice) for name in ("input", "output", "cached_input", "cache_write")}
    optional = (
        *("cache_write_1h", "reasoning", "audio_input", "audio_output"),
        *("image_input", "image_output"),
    )
    words |= {name: usd(dice) if dice.random() < 0.5 else "" for name in optional}
    units = (
        *("per_image", "per_second", "per_search", "per_session", "per_search_unit"),
        "per_video_second",
    )
    words |= {name: usd(dice, 1) for name in units}
    words["character"] = usd(dice)
    words["per_call"] = usd(dice, 1) if dice.random() < 0.3 else "0"
    if dice.random() < 0.2:
        words["cache_write"] = "0"
    tiers = {
        name: {rate: usd(dice) for rate in ("input", "output", "cached_input", "cache_write")}
        for name in ("priority", "flex")
        if dice.random() < 0.7
    }
    classes = {
        (quality, size): usd(dice, 1)
        for quality in ("low", "high")
        for size in ("1024x1024", "1536x1024")
        if dice.random() < 0.5
    }
    rates = ("input", "output", "cached_input", "cache_write", "cache_write_1h")
    above = sorted(dice.sample((500, 2_000, 6_000), dice.choice((0, 0, 1, 2))))
    long = [(tokens, {rate: usd(dice) for rate in rates}) for tokens in above]
    multiplier = Decimal(dice.choice(("1", "1.5", "0.69", "0")))
    sizes = {size: usd(dice, 1) for size in VIDEO_SIZES if dice.random() < 0.3}
    return PriceList(words, tiers, classes, multiplier, long, sizes)


def prompt_for(used: Used) -> str:
    """Return a prompt that can have so many tokens: none is less than a byte."""
    return "go " * (used.input // 3 + 50)


def count(dice: random.Random) -> int:
    """Return a count of tokens, of all sizes."""
    return dice.choice((0, 0, 1, dice.randint(1, 99), dice.randint(1, 9_000)))


def _text_call(
    dice: random.Random,
    endpoint: Endpoint,
    asked: dict[str, Any],
    events: list[dict[str, Any]],
    last: list[dict[str, Any]],
    used: Used,
) -> Asked:
    """Return a call whose answer is text: whole as a stream or a body, or cut at a random point."""
    body = json.dumps({"model": "m", "stream": True, **asked}).encode()
    lines = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in (*events, *last)]
    cut = dice.randint(0, len(events)) if dice.random() < 0.3 else None
    says = cut is None
    told = endpoint is Endpoint.MESSAGES  # whose first event tells the prompt
    tokens = len(events) if cut is None else cut
    return Asked(endpoint, body, lines, cut, used, says, tokens, told_input=told)


def _chat(dice: random.Random, price: PriceList) -> Asked:
    used = Used(
        fresh=dice.randint(1, 5_000), cached=count(dice), written=0, audio_in=count(dice) // 9,
        text=dice.randint(1, 2_000), reasoning=count(dice), audio_out=count(dice) // 9,
    )  # fmt: skip
    shape = dice.choice(CHAT_SHAPES)
    if shape != "openai":
        used.audio_in = used.audio_out = 0
    if shape in ("gemini", "deepseek", "together"):
        used.reasoning = 0
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "go " * (used.input // 3 + 50)}]
    }
    choice = {"index": 0, "delta": {"content": ""}}
    events = [
        {"id": "c", "choices": [{**choice, "delta": {"content": dice.choice(TEXT)}}]}
        for _ in range(dice.randint(3, 30))
    ]
    last: dict[str, Any] = {"id": "c", "choices": [], "usage": _chat_usage(shape, used)}
    if shape == "gemini":
        # Its thoughts are in the total alone.
        thoughts = used.cached + dice.randint(1, 500)
        last["usage"]["total_tokens"] += thoughts
        used.reasoning += thoughts
    if shape == "groq":
        last["usage_breakdown"] = {"models": [{"usage": {"prompt_tokens": 1, "total_tokens": 1}}]}
    if price.tiers and dice.random() < 0.3:
        asked["service_tier"] = tier = dice.choice(sorted(price.tiers))
        last["service_tier"] = dice.choice((tier, "default"))
        used.tier = "" if last["service_tier"] == "default" else tier
        asked["metadata"] = {"service_tier": "flex"}
    n = dice.choice((1, 1, 3))
    asked |= {"n": n} if n > 1 else {}
    finish = {"id": "c", "choices": [{**choice, "finish_reason": "stop"}]}
    call = _text_call(dice, Endpoint.CHAT, asked, events, [finish, last], used)
    if not call.says and "service_tier" in asked:
        tier = asked["service_tier"]
        used.tier = tier if price.is_dearer(tier) else ""
    return call


def _completions(dice: random.Random, price: PriceList) -> Asked:
    del price
    used = Used(fresh=dice.randint(1, 5_000), cached=count(dice), text=dice.randint(1, 2_000))
    events = [
        {"id": "c", "choices": [{"index": 0, "text": dice.choice(TEXT)}]}
        for _ in range(dice.randint(3, 30))
    ]
    finish = {"id": "c", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    last = {"id": "c", "choices": [], "usage": _chat_usage("openai", used)}
    asked = {"prompt": prompt_for(used)} | dice.choice(({}, {"n": 2}))
    return _text_call(dice, Endpoint.COMPLETIONS, asked, events, [finish, last], used)


def _chat_usage(shape: str, used: Used) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": used.input,
        "completion_tokens": used.output,
        "total_tokens": used.input + used.output,
    }
    match shape:
        case "xai":
            usage["completion_tokens"] -= used.reasoning
        case "floats":
            usage = {name: float(count) for name, count in usage.items()}
        case "strings":
            usage = {name: str(count) for name, count in usage.items()}
        case "deepseek":
            usage["prompt_cache_hit_tokens"] = used.cached
            return usage
        case "together":
            usage["cached_tokens"] = used.cached
            return usage
    usage["prompt_tokens_details"] = {"cached_tokens": used.cached, "audio_tokens": used.audio_in}
    usage["completion_tokens_details"] = {
        "reasoning_tokens": used.reasoning,
        "audio_tokens": used.audio_out,
    }
    return usage


def _responses(dice: random.Random, price: PriceList) -> Asked:
    del price
    used = Used(
        fresh=dice.randint(1, 5_000), cached=count(dice), text=dice.randint(1, 2_000),
        reasoning=count(dice), searches=dice.randint(0, 3), sessions=dice.randint(0, 1),
    )  # fmt: skip
    tools = [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
    asked = {"input": prompt_for(used), "tools": tools, "metadata": {"usage": "none"}}
    events = [
        {"type": "response.output_text.delta", "delta": dice.choice(TEXT)}
        for _ in range(dice.randint(3, 30))
    ]
    items = [{"type": "web_search_call"}] * used.searches
    items += [{"type": "code_interpreter_call"}] * used.sessions
    usage = {
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }
    response = {"status": "completed", "output": items, "usage": usage, "metadata": {"a": "b"}}
    last = {"type": "response.completed", "response": response}
    call = _text_call(dice, Endpoint.RESPONSES, asked, events, [last], used)
    if not call.says:  # nobody can say how often they ran: once
        used.searches = used.sessions = 1
    return call


def _messages(dice: random.Random, price: PriceList) -> Asked:
    hour = bool(price.words["cache_write_1h"])
    used = Used(
        fresh=dice.randint(1, 5_000), cached=count(dice), written=count(dice),
        written_hour=count(dice) if hour else 0, text=dice.randint(1, 2_000),
    )  # fmt: skip
    system = [{"text": "a", "cache_control": {"ttl": "1h"}}] if hour else []
    asked = {
        "system": system,
        "messages": [{"role": "user", "content": "go " * (used.input // 3 + 50)}],
    }
    begun = {
        "input_tokens": used.fresh,
        "cache_read_input_tokens": used.cached,
        "cache_creation_input_tokens": used.written + used.written_hour,
        "cache_creation": {"ephemeral_1h_input_tokens": used.written_hour},
        "output_tokens": 1,
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": begun}}]
    events += [
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": dice.choice(TEXT)}}
        for _ in range(dice.randint(3, 30))
    ]
    end = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": used.text}}
    return _text_call(dice, Endpoint.MESSAGES, asked, events, [end, {"type": "message_stop"}], used)


def plain(endpoint: Endpoint, asked: dict[str, Any], answer: dict[str, Any], used: Used) -> Asked:
    """Return a call whose answer comes in one piece."""
    body = json.dumps({"model": "m", **asked}).encode()
    return Asked(endpoint, body, [json.dumps(answer).encode()], None, used, True, 0)


def _embeddings(dice: random.Random, price: PriceList) -> Asked:
    del price
    used = Used(fresh=dice.randint(1, 5_000))
    usage = {"prompt_tokens": used.fresh, "total_tokens": used.fresh}
    answer = {"data": [{"embedding": [0.5] * 9}], "usage": usage}
    return plain(Endpoint.EMBEDDINGS, {"input": "a " * 2_500}, answer, used)


def _images(dice: random.Random, price: PriceList) -> Asked:
    del price
    quality = dice.choice(("low", "high", "auto", ""))
    size = dice.choice(("1024x1024", "1536x1024", "auto", ""))
    used = Used(
        fresh=dice.randint(1, 90), text=dice.randint(1, 5_000), images=dice.randint(1, 10),
        image_class=(quality, size),
    )  # fmt: skip
    asked: dict[str, Any] = {"prompt": "a cat " * 20, "n": used.images}
    asked |= {"quality": quality} if quality else {}
    asked |= {"size": size} if size else {}
    usage = {"input_tokens": used.fresh, "output_tokens": used.text}
    return plain(Endpoint.IMAGES, asked, {"data": [{}] * used.images, "usage": usage}, used)


def _speech(dice: random.Random, price: PriceList) -> Asked:
    del price
    text = "\u00e9cho " * dice.randint(1, 500)
    call = plain(Endpoint.SPEECH, {"input": text, "voice": "a"}, {}, Used(characters=len(text)))
    return call._replace(events=[b"\xff\xfb" + bytes(200)], says=False)


def _sound(dice: random.Random, price: PriceList) -> Asked:
    del price
    endpoint = dice.choice((Endpoint.TRANSCRIPTIONS, Endpoint.TRANSLATIONS))
    seconds = Decimal(dice.randint(1, 90_000)) / 10
    form = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
        + bytes(5_000)
        + b"\r\n--b--\r\n"
    )
    answer: dict[str, Any] = {"text": "a", "duration": float(seconds)}
    if dice.random() < 0.5:
        answer = {"text": "a", "usage": {"type": "duration", "seconds": float(seconds)}}
    events = [json.dumps(answer).encode()]
    used = Used(seconds=seconds)
    return Asked(endpoint, form, events, None, used, False, 0)


def _rerank(dice: random.Random, price: PriceList) -> Asked:
    del price
    used = Used(search_units=dice.randint(1, 5))
    answer = {"results": [], "meta": {"billed_units": {"search_units": used.search_units}}}
    call = plain(Endpoint.RERANK, {"query": "a", "documents": ["a"] * 9}, answer, used)
    return call._replace(says=False)


def _videos(dice: random.Random, price: PriceList) -> Asked:
    """Return a video that is there in the answer that begins it; others are settled alike."""
    del price
    size, seconds = dice.choice((*VIDEO_SIZES, "")), dice.choice((None, 4, "8", 12.5))
    made = dice.random() < 0.7
    told = dice.choice((3, "12", None)) if seconds else dice.choice((3, "12"))
    used = Used(video_size=size, video_seconds=Decimal(str(told or seconds)))
    asked: dict[str, Any] = {"prompt": "a cat"} | ({"size": size} if size else {})
    asked |= {"seconds": seconds} if seconds else {}
    answer = {"id": "video_1", "status": "completed" if made else "failed", "seconds": told}
    call = plain(Endpoint.VIDEOS, asked, answer, used)
    return call if made else call._replace(cut=0)


KINDS = (
    *(_chat, _chat, _chat, _responses, _messages, _completions),
    *(_embeddings, _images, _speech, _sound, _rerank, _videos),
)
