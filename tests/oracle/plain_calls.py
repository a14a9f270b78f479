"""Random calls whose answers come in one piece: text, judgements, pictures made of pictures."""

import json
import random
from typing import Any

from relay.records import Endpoint
from tests.oracle.calls import Asked, count, plain, prompt_for
from tests.oracle.opinion import PriceList, Used


def whole_chat(dice: random.Random, price: PriceList) -> Asked:
    """Return a chat, a completion, a compaction or a message that is not streamed."""
    del price
    used = Used(
        fresh=dice.randint(1, 5_000), cached=count(dice), text=dice.randint(1, 2_000),
        reasoning=count(dice),
    )  # fmt: skip
    endpoint = dice.choice(
        (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.COMPACT, Endpoint.MESSAGES)
    )
    said = prompt_for(used)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": said}]}
    names = "prompt", "completion"
    match endpoint:
        case Endpoint.COMPLETIONS:
            asked = {"prompt": said} | dice.choice(({}, {"n": 3}, {"best_of": 4}))
        case Endpoint.COMPACT:
            asked, names = {"input": said}, ("input", "output")
        case Endpoint.MESSAGES:
            used.written, used.reasoning = count(dice), 0
            usage = {
                "input_tokens": used.fresh,
                "cache_read_input_tokens": used.cached,
                "cache_creation_input_tokens": used.written,
                "output_tokens": used.text,
            }
            asked = {"messages": [{"role": "user", "content": prompt_for(used)}]}
            return plain(endpoint, asked, {"type": "message", "usage": usage}, used)
    told: dict[str, Any] = {
        f"{names[0]}_tokens": used.input,
        f"{names[0]}_tokens_details": {"cached_tokens": used.cached},
        f"{names[1]}_tokens": used.output,
        f"{names[1]}_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }
    return plain(endpoint, asked, {"id": "a", "choices": [], "usage": told}, used)


def judged(dice: random.Random, price: PriceList) -> Asked:
    """Return a moderation, which tells no usage: the prompt is estimated."""
    del price
    asked = {"input": "go " * dice.randint(1, 2_000)}
    call = plain(Endpoint.MODERATIONS, asked, {"results": [{"flagged": False}]}, Used())
    return call._replace(says=False)


def pictures(dice: random.Random, price: PriceList) -> Asked:
    """Return a call that makes pictures of pictures."""
    del price
    endpoint = dice.choice((Endpoint.IMAGE_EDITS, Endpoint.IMAGE_VARIATIONS))
    quality, size = dice.choice(("low", "high", "auto", "")), dice.choice(("1024x1024", "auto", ""))
    used = Used(images=dice.randint(1, 10), image_class=(quality, size))
    fields = {"model": "m", "n": str(used.images), "quality": quality, "size": size}
    answer: dict[str, Any] = {"data": [{}] * used.images}
    says = endpoint is Endpoint.IMAGE_EDITS and dice.random() < 0.7
    if says:
        used.fresh, used.image_in, used.image_out = 20, dice.randint(1, 900), dice.randint(1, 5_000)
        answer["usage"] = {
            "input_tokens": used.input,
            "input_tokens_details": {"text_tokens": 20, "image_tokens": used.image_in},
            "output_tokens": used.image_out,
            "output_tokens_details": {"image_tokens": used.image_out},
        }
    return Asked(
        endpoint, form(fields, "image"), [json.dumps(answer).encode()], None, used, says, 0
    )


def form(fields: dict[str, str], file: str) -> bytes:
    """Return a form with a file of 5,000 bytes."""
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (name.encode(), value.encode())
        for name, value in fields.items()
        if value
    ]
    head = f'--b\r\nContent-Disposition: form-data; name="{file}"; filename="a"\r\n\r\n'
    return b"".join(parts) + head.encode() + bytes(5_000) + b"\r\n--b--\r\n"
