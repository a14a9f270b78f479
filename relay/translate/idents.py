"""Ids of calls that the dialect they go to takes.

An id that is legal there passes as it is. Any other is cleaned and given a digest of itself: the
call and its result, and the same call a turn later, meet again without any memory of ours.

Source: the messages of providers that refused ids: Anthropic `^[a-zA-Z0-9_-]+$`, OpenAI 64
characters (`string_above_max_length`).
"""

import base64
import hashlib
import re
from typing import Final

from relay.translate.middle import TranslateDialect

CALL_ID_CHARS_MAX: Final = 64
_DIGEST_CHARS: Final = 16
_LEGAL: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")
NAMES_MAX: Final = 32
_PLAIN: Final = re.compile(r"[\w.\[\]()=> -]{1,80}", re.ASCII)
_HANDLE: Final = b"relay:"


def plain_names(names: list[str]) -> tuple[str, ...]:
    """Return names as a header can hold them: those of clients may be anything, and any number."""
    plain = [name if _PLAIN.fullmatch(name) is not None else "(a field)" for name in names]
    kept = list(dict.fromkeys(plain))
    more = len(kept) - NAMES_MAX
    return (*kept[:NAMES_MAX], f"{more} more") if more > 0 else tuple(kept)


def digest(*texts: str) -> str:
    """Return 16 hex digits that stand for some texts."""
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=_DIGEST_CHARS // 2).hexdigest()


def legal_call_id(call_id: str) -> str:
    """Return an id that every dialect takes; the same one for the same id."""
    if _LEGAL.fullmatch(call_id) is not None:
        return call_id
    clean = _FOREIGN.sub("_", call_id)[: CALL_ID_CHARS_MAX - _DIGEST_CHARS - 1]
    return f"{clean}_{digest(call_id)}" if clean else f"call_{digest(call_id)}"


def made_call_id(*seeds: str) -> str:
    """Return an id for a call that came without one."""
    return f"call_{digest(*seeds)}"


def legal_name(text: str) -> str:
    """Return what may be part of an id."""
    return _FOREIGN.sub("", text)[:CALL_ID_CHARS_MAX]


def handle_of(call_id: str) -> str:
    """Return what a client gets in place of a signature: it leads back to the call, no further."""
    return base64.b64encode(_HANDLE + call_id.encode()).decode()


def call_of_handle(signature: str) -> str | None:
    """Return the call that one of our handles stands for, None for a provider's signature."""
    try:
        plain = base64.b64decode(signature, validate=True)
    except ValueError:
        return None
    return plain[len(_HANDLE) :].decode(errors="replace") if plain.startswith(_HANDLE) else None


PREFIXES: Final = {
    TranslateDialect.OPENAI_CHAT: "chatcmpl-",
    TranslateDialect.ANTHROPIC: "msg_",
    TranslateDialect.GEMINI: "",
    TranslateDialect.RESPONSES: "resp_",
}
"""How the ids of answers begin."""


def answer_id(dialect: TranslateDialect, nonce: str) -> str:
    """Return the id of an answer for a client."""
    return PREFIXES[dialect] + legal_name(nonce)
