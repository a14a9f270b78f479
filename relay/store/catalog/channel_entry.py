"""`[[channel]]`: what a file says of an upstream, and what its kind fills in."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay.model import AbortBills, Dialect, OpenAiApi, Resume
from relay.reach import OTHER, Auth, ClaudeHost, Egress, Reach, Speaks, check_reach
from relay.records import Endpoint
from relay.store.catalog.canonical import (
    canonical_multiplier,
    canonical_url,
    check_distinct,
    check_name,
    check_patterns,
    is_pattern,
    model_map,
)
from relay.store.catalog.entry import Concurrency, Entry, Limit, Name
from relay.store.secrets.refs import HOW_TO, is_reference
from relay.wire.kinds.presets import FILLED, preset_of

KEYS_MAX: Final = 64
"""Credentials of a channel."""
KEY_MARK: Final = "#"
"""A channel's second credential is known as NAME#2: in the log, in metrics, to `relay channel`."""
_ENDPOINTS: Final = frozenset({OTHER, *(endpoint.value for endpoint in Endpoint)})
_BY_KIND: Final[Any] = UNSET
"""Where a file says nothing: what the channel's kind has, filled in as soon as it is read."""


class ChannelEntry(Entry, frozen=True):
    """`[[channel]]`. Without `api_key` a known channel keeps the credentials that it has.

    `api_keys` instead: several credentials, each with its own health and quota; what the channel
    says of quotas holds for each of them.

    `models`: names, "public=upstream", and patterns that choose out of the upstream's own list;
    `models_auto`: what such a list gains and loses is taken over without asking.
    `kind`: a row of wire.kinds.presets; what it knows need not be said, what is said counts.
    `auth` to `listing`, `websocket`: relay.reach.Reach. `cost`: what its provider charges, as a
    share of the official price; "" = not known.
    """

    name: Name
    models: Annotated[list[str], Meta(min_length=1)]
    models_auto: bool = False
    kind: str = ""
    base_url: str = _BY_KIND
    api_key: str | UnsetType = UNSET
    api_keys: Annotated[list[str], Meta(min_length=1, max_length=KEYS_MAX)] | UnsetType = UNSET
    protocol: Dialect = _BY_KIND
    auth: Auth = _BY_KIND
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    query: dict[str, str] = _BY_KIND
    paths: dict[str, str] = _BY_KIND
    listing: str = _BY_KIND
    egress: Egress | None = None
    claude_on: ClaudeHost = _BY_KIND
    websocket: Speaks = Speaks.FOUND_OUT
    cost: str = ""
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    tier: Annotated[int, Meta(ge=0, le=1_000)] = 0
    tpm: Limit = 0
    rpm: Limit = 0
    concurrency: Concurrency = 0
    resume: Resume = _BY_KIND
    abort_bills: AbortBills = _BY_KIND
    include_usage: bool = _BY_KIND
    openai_api: OpenAiApi = _BY_KIND

    @property
    def reach(self) -> Reach:
        """How it is reached otherwise than its dialect says."""
        return Reach(
            auth=self.auth,
            headers=self.headers,
            query=self.query,
            paths=self.paths,
            listing=self.listing,
            egress=self.egress,
            claude_on=self.claude_on,
            websocket=self.websocket,
        )

    @property
    def named_models(self) -> dict[str, str]:
        """The models that are given by name, and what the upstream calls them."""
        return model_map([entry for entry in self.models if not is_pattern(entry)])

    @property
    def patterns(self) -> list[str]:
        """What chooses others out of the upstream's list: `relay models sync`."""
        return [entry for entry in self.models if is_pattern(entry)]

    @property
    def references(self) -> list[str]:
        """Where its credentials are, the first one first; none where the file does not say."""
        if self.api_keys is not UNSET:
            return self.api_keys
        return [] if self.api_key is UNSET else [self.api_key]

    def _check_credentials(self) -> None:
        if self.api_key is not UNSET and self.api_keys is not UNSET:
            raise ValueError("api_keys: give it or api_key, not both")
        several = self.api_keys is not UNSET
        field = "api_keys" if several else "api_key"
        for reference in self.references:
            if (reference or several) and not is_reference(reference):
                raise ValueError(f"{field}: {HOW_TO}")
        check_distinct(field, self.references)

    def _check(self) -> dict[str, object]:
        check_name(self.name)
        preset = preset_of(self.kind)
        for field in FILLED:
            if getattr(self, field) is UNSET:
                msgspec.structs.force_setattr(self, field, getattr(preset, field))
        if not self.base_url:
            such = f", such as {preset.example}" if preset.example else ""
            raise ValueError(f"base_url: it has to be given{such}")
        check_reach(self.reach)
        if self.claude_on and self.protocol is not preset_of("anthropic").protocol:
            raise ValueError("claude_on: only with protocol = 'anthropic'")
        patterns = sorted(set(self.patterns))
        check_patterns(patterns)
        unknown = self.paths.keys() - _ENDPOINTS
        if unknown:
            raise ValueError(f"paths: not an endpoint: {', '.join(sorted(unknown))[:80]!r}")
        self._check_credentials()
        return {
            "base_url": canonical_url(self.base_url),
            "cost": canonical_multiplier("cost", self.cost, optional=True),
            "models": [
                *sorted(
                    name if name == upstream else f"{name}={upstream}"
                    for name, upstream in self.named_models.items()
                ),
                *patterns,
            ],
        }


def key_name(channel: str, number: int) -> str:
    """Return what a channel's credential is known as; the first has the channel's own name."""
    return channel if number == 1 else f"{channel}{KEY_MARK}{number}"
