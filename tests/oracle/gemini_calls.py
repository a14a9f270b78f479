"""Random calls in Gemini's dialect: running totals in every event, thoughts beside the answer."""

import dataclasses
import json
import random
from typing import Any

from relay.records import Endpoint
from tests.oracle.calls import TEXT, Asked, count, prompt_for
from tests.oracle.opinion import PriceList, Used


def generate(dice: random.Random, price: PriceList) -> Asked:
    """Return a call of generateContent, streamed or not; searches ground some of its answers."""
    used = Used(
        fresh=dice.randint(1, 5_000), cached=count(dice), audio_in=count(dice) // 9,
        image_in=count(dice) // 9, text=dice.randint(1, 2_000), reasoning=count(dice),
        audio_out=count(dice) // 9, image_out=count(dice) // 9,
    )  # fmt: skip
    asked: dict[str, Any] = {"contents": [{"parts": [{"text": prompt_for(used)}]}]}
    if dice.random() < 0.3:
        asked["tools"] = [{"googleSearch": {}}]
        used.searches = dice.randint(0, 3)
    if price.tiers and dice.random() < 0.2:
        asked["serviceTier"] = used.tier = dice.choice(sorted(price.tiers))
    if dice.random() < 0.4:
        return _whole(asked, used)
    pieces = dice.randint(3, 30)
    events = [_event(dice.choice(TEXT), used, at / (pieces + 1)) for at in range(1, pieces + 1)]
    cut = dice.randint(1, pieces) if dice.random() < 0.3 else None
    # Some servers tell the usage in the last event alone.
    if dice.random() < 0.3:
        events = [{"candidates": event["candidates"]} for event in events]
    events.append(_last(used))
    lines = [b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events]
    if cut is not None and "tools" in asked:
        used.searches = 1  # nobody can say how often it searched: once
    dearer = used.tier and price.is_dearer(used.tier)
    told = cut is None or "usageMetadata" in events[0]
    if used.tier and not told:
        used.tier = used.tier if dearer else ""
    body = json.dumps(asked).encode()
    tokens = pieces if cut is None else cut
    return Asked(
        Endpoint.STREAM_GENERATE, body, lines, cut, used, cut is None, tokens,
        model="m", told_input="usageMetadata" in events[0],
    )  # fmt: skip


def _whole(asked: dict[str, Any], used: Used) -> Asked:
    body = json.dumps(asked).encode()
    answer = json.dumps(_last(used), indent=2).encode()
    return Asked(Endpoint.GENERATE, body, [answer], None, used, True, 0, model="m")


def _event(text: str, used: Used, share: float) -> dict[str, Any]:
    """Return an event in the middle: the prompt is told, of the answer what there is of it."""
    so_far = dataclasses.replace(
        used, text=int(used.text * share), reasoning=int(used.reasoning * share),
        audio_out=0, image_out=0,
    )  # fmt: skip
    parts = [{"text": text}]
    return {"candidates": [{"content": {"parts": parts}}], "usageMetadata": _usage(so_far)}


def _last(used: Used) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": "."}]}, "finishReason": "STOP"}
    if used.searches:
        queries = [f"who, [{n}]?" for n in range(used.searches)]
        candidate["groundingMetadata"] = {"webSearchQueries": queries}
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(used),
        "modelVersion": "gemini-3-pro",
    }


def _usage(used: Used) -> dict[str, Any]:
    fetched = min(used.fresh // 3, 100)
    usage: dict[str, Any] = {
        "promptTokenCount": used.input - fetched,
        "toolUsePromptTokenCount": fetched,
        "cachedContentTokenCount": used.cached,
        "candidatesTokenCount": used.output - used.reasoning,
        "thoughtsTokenCount": used.reasoning,
        "totalTokenCount": used.input + used.output,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": used.fresh},
            {"modality": "AUDIO", "tokenCount": used.audio_in},
            {"modality": "IMAGE", "tokenCount": used.image_in},
        ],
        "candidatesTokensDetails": [
            {"modality": "AUDIO", "tokenCount": used.audio_out},
            {"modality": "IMAGE", "tokenCount": used.image_out},
        ],
    }
    return usage | ({"serviceTier": used.tier.upper()} if used.tier else {})


def embed(dice: random.Random, price: PriceList) -> Asked:
    """Return a call for vectors, whose answers tell no usage: the prompt is estimated."""
    del price
    content = {"content": {"parts": [{"text": "go " * dice.randint(50, 2_000)}]}}
    endpoint, asked = Endpoint.EMBED_CONTENT, content
    answer: dict[str, Any] = {"embedding": {"values": [0.5] * 9}}
    if dice.random() < 0.5:
        endpoint = Endpoint.BATCH_EMBED_CONTENTS
        asked = {"requests": [{"model": "models/m", **content}] * 2}  # type: ignore[dict-item]
        answer = {"embeddings": [{"values": [0.5] * 9}] * 2}
    body = json.dumps(asked).encode()
    return Asked(endpoint, body, [json.dumps(answer).encode()], None, Used(), False, 0, model="m")
