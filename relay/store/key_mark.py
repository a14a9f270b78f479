"""What is stored of an API key: enough to recognise it, not enough to use it. Pure."""

import msgspec

from relay.store.vault import Pepper
from relay.wire import keys


class KeyMark(msgspec.Struct, frozen=True):
    """The digest of a key under the pepper `pepper_id`, and what may be shown of the key."""

    digest: bytes
    pepper_id: str
    prefix: str
    last4: str


def mark_key(pepper: Pepper, key: str) -> KeyMark:
    """Return the mark of a key, minted here or elsewhere (then nothing but its end is shown)."""
    prefix = keys.PREFIX if keys.is_well_formed(key) else ""
    return KeyMark(keys.digest(pepper.value, key), pepper.id, prefix, keys.last4(key))
