"""Whose fault an upstream's refusal is: one table of status and words, the first row that fits.

A row names statuses and what has to be said; each has the source that it was taken from. The rows
of a dialect are asked before those that hold for all. What is not in any row has a stated default:
another 4xx is the request's fault, everything else the channel's.

What a client can bring about must never cost others a channel, so the words of a credential only
count where the provider itself has put them: as a code, or at the beginning of its message. A
message that quotes a prompt says nothing there.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.wire.refusals.fault_body import FaultWords


class Blame(enum.Enum):
    """Whose fault a refusal is, and with that what happens to the call and to the channel."""

    REQUEST = "the request"
    """The client gets it, after one try."""
    CONTENT = "its content"
    """The same: what moderation does not like, another channel must not be asked for."""
    ELSEWHERE = "unclear"
    """One other channel is asked; held against the first only if another account gets it too."""
    OWNER = "another account's state"
    """It names what another account keeps: one other channel is asked, then the client gets it."""
    MODEL = "no such model"
    """This channel lacks the model, or the endpoint: the others are asked, then it is a 404."""
    CREDENTIAL = "the credential"
    """The channel's key or balance: it is taken out, and an operator told."""
    LIMITED = "its rate limit"
    """The channel rests for as long as it asks."""
    OVERLOADED = "no room"
    """The provider's own lack of room: another channel is asked, and it counts."""
    TIMEOUT = "its time"
    """The provider waited for something in vain: another channel is asked, and it counts."""
    SERVER = "the upstream"
    """Another channel is asked, and it counts."""


Range = tuple[int, int]
"""The first and the last status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Refusals that are one fault. Where nothing has to be said, the status alone decides.

    `codes`: one of them is said, in lower case. `begins`: the message begins so. `holds`: it holds
    such words anywhere; only for what does no channel harm. `html`, `empty`, `flagged`: so is the
    body.
    """

    statuses: tuple[Range, ...]
    blame: Blame
    source: str
    codes: frozenset[str] = frozenset()
    begins: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    html: bool = False
    empty: bool = False
    flagged: bool = False

    def fits(self, status: int, words: FaultWords) -> bool:
        """Tell whether a refusal is one of these."""
        if not any(first <= status <= last for first, last in self.statuses):
            return False
        if self.by_status:
            return True
        message = words.message.lower()
        return (
            (self.flagged and words.flagged)
            or (self.html and words.html)
            or (self.empty and words.empty and not words.html)
            or not self.codes.isdisjoint(words.codes)
            or (bool(self.begins) and message.startswith(self.begins))
            or any(text in message for text in self.holds)
        )

    @property
    def by_status(self) -> bool:
        """Whether the status alone decides."""
        said = self.codes or self.begins or self.holds
        return not (said or self.html or self.empty or self.flagged)


def of(*statuses: int) -> tuple[Range, ...]:
    """Return single statuses as a row takes them."""
    return tuple((status, status) for status in statuses)


CONTENT_CODES: Final = frozenset(
    {
        *("content_filter", "content_policy_violation", "content_policy", "moderation_blocked"),
        *("responsibleaipolicyviolation", "invalid_prompt", "cyber_policy", "bio_policy"),
        *("data_inspection_failed", "datainspectionfailed", "content_moderation_blocked"),
        *("prohibited_content", "sensitive_words_detected", "image_content_policy_violation"),
        *("safety", "blocklist", "content_filtered", "guardrail_intervened"),
    }
)
"""Codes of moderation. Source: OpenAI, "Error codes" and Responses' ResponseErrorCode; Azure,
"Content filtering" (innererror); Alibaba Model Studio, "Error codes"; new-api's own."""
CLIENT_FAULT_CODES: Final = CONTENT_CODES | {
    *("context_length_exceeded", "invalid_request_error", "request_too_large"),
    *("tool_use_failed", "string_above_max_length", "invalid_image", "image_too_large"),
}
"""Codes of errors inside an answer that another channel would repeat, or must not evade."""

_CREDENTIAL_CODES: Final = frozenset(
    {
        *("invalid_api_key", "authentication_error", "incorrect_api_key", "account_deactivated"),
        *("invalid_authentication", "invalid_token", "token_expired", "account_suspended"),
        *("billing_error", "billing_not_active", "billing_hard_limit_reached", "access_terminated"),
        *("insufficient_quota", "insufficient_balance", "arrearage"),
        *("unsupported_country_region_territory", "ip_not_authorized", "organization_suspended"),
        *("unrecognizedclientexception", "expiredtokenexception", "invalidsignatureexception"),
        *("missingauthenticationtokenexception", "incompletesignatureexception"),
    }
)
_CREDENTIAL_WORDS: Final = (
    *("incorrect api key provided", "invalid api key", "api key not valid", "api key expired"),
    *("invalid x-api-key", "your credit balance is too low", "invalid authentication"),
    *("your account has been", "your account is", "your organization has been disabled"),
    *("this organization has been disabled", "insufficient balance", "the security token included"),
    *("the request signature we calculated", "country, region, or territory not supported"),
    *("access denied due to invalid subscription key", "access denied due to virtual network"),
)
_MODEL_CODES: Final = frozenset(
    {
        *("model_not_found", "deploymentnotfound", "model_not_supported", "unknown_model"),
        *("modelnotfound", "invalid_model", "model_decommissioned", "model_not_available"),
        "operationnotsupported",
    }
)

COMMON: Final[tuple[Row, ...]] = (
    Row(
        statuses=((400, 400), (402, 403), (429, 429)),
        codes=_CREDENTIAL_CODES,
        begins=_CREDENTIAL_WORDS,
        blame=Blame.CREDENTIAL,
        source="Anthropic's 400 for credit, Gemini's and xAI's 400 and Bedrock's 403 for a key as "
        "recorded; OpenAI, Error codes (insufficient_quota, unsupported country)",
    ),
    Row(
        statuses=of(400, 403, 422, 451),
        codes=CONTENT_CODES,
        flagged=True,
        holds=(
            *("violates usage guidelines", "violates our usage policies", "content policy"),
            *("content management policy", "flagged by", "was flagged", "safety system"),
        ),
        blame=Blame.CONTENT,
        source="OpenRouter, Errors: moderation's metadata; xAI's 403 as gateways recorded it; "
        "Azure OpenAI, Content filtering",
    ),
    Row(
        statuses=of(401, 403),
        begins=("you have insufficient permissions", "missing scopes"),
        blame=Blame.ELSEWHERE,
        source="OpenAI: a restricted key lacks a scope for one endpoint, as users recorded it",
    ),
    Row(
        statuses=of(402, 403),
        codes=frozenset({"insufficient_user_quota", "pre_consume_token_quota_failed"}),
        holds=("fewer max_tokens", "can only afford"),
        blame=Blame.ELSEWHERE,
        source="OpenRouter, new-api: the balance does not cover what this one request may take",
    ),
    Row(
        statuses=of(413, 429),
        begins=("request too large for",),
        blame=Blame.ELSEWHERE,
        source="OpenAI and Groq: one request over a whole minute's tokens of this account",
    ),
    Row(
        statuses=of(400, 403, 404, 422),
        codes=_MODEL_CODES,
        begins=(
            *("the provided model identifier is invalid", "model not found", "no such model"),
            *("unknown model", "model does not exist", "publisher model"),
        ),
        blame=Blame.MODEL,
        source="OpenAI, Error codes; Azure (DeploymentNotFound); Bedrock and Vertex as recorded",
    ),
    Row(
        statuses=of(401),
        blame=Blame.CREDENTIAL,
        source="RFC 9110, 15.5.2; all providers' error pages",
    ),
    Row(
        statuses=of(402),
        blame=Blame.CREDENTIAL,
        source="DeepSeek, OpenRouter: insufficient balance",
    ),
    Row(
        statuses=of(403),
        blame=Blame.ELSEWHERE,
        source="RFC 9110, 15.5.4: refused for reasons beside the credential; firewalls' pages, "
        "rights to one model, empty bodies",
    ),
    Row(
        statuses=of(404, 410),
        blame=Blame.MODEL,
        source="RFC 9110, 15.5.5 and 15.5.11: path and model are the relay's, not the client's",
    ),
    Row(
        statuses=of(405, 501),
        blame=Blame.MODEL,
        source="RFC 9110, 15.5.6 and 15.6.2: the channel has no such endpoint",
    ),
    Row(
        statuses=of(407, 511),
        blame=Blame.SERVER,
        source="RFC 9110, 15.5.8; RFC 6585, 6: a proxy on the way to the provider",
    ),
    Row(
        statuses=of(408, 504, 522, 524),
        blame=Blame.TIMEOUT,
        source="RFC 9110, 15.5.9 and 15.6.5; Bedrock, modelTimeoutException; Cloudflare, 5xx",
    ),
    Row(
        statuses=of(421, 425, 426),
        blame=Blame.SERVER,
        source="RFC 9110, 15.5.20 and 15.5.22; RFC 8470: about the connection, not the request",
    ),
    Row(
        statuses=of(424),
        blame=Blame.SERVER,
        source="Bedrock, ModelErrorException and modelStreamErrorException",
    ),
    Row(
        statuses=of(429),
        blame=Blame.LIMITED,
        source="RFC 6585, 4",
    ),
    Row(
        statuses=((460, 464),),
        blame=Blame.SERVER,
        source="AWS, Application Load Balancer: HTTP 460, 463, 464, its own connections",
    ),
    Row(
        statuses=of(498),
        blame=Blame.OVERLOADED,
        source="Groq, Error codes: flex tier capacity exceeded",
    ),
    Row(
        statuses=of(499),
        blame=Blame.SERVER,
        source="nginx: a hop behind the upstream gave up; we were still there",
    ),
    Row(
        statuses=of(529),
        blame=Blame.OVERLOADED,
        source="Anthropic, Errors: overloaded_error",
    ),
)


def judge(status: int, words: FaultWords, rows: Sequence[Row] = ()) -> Blame:
    """Return whose fault a refusal is.

    Args:
        status: Other than 1xx and 2xx.
        words: What its body says.
        rows: The dialect's own, asked before those that hold for all.
    """
    for row in (*rows, *COMMON):
        if row.fits(status, words):
            return row.blame
    return Blame.REQUEST if 400 <= status < 500 else Blame.SERVER


def render_markdown(tables: Iterable[tuple[str, Sequence[Row]]]) -> str:
    """Return the rows as Markdown, a table for each of `tables`: its name, its rows."""
    lines = []
    for name, rows in tables:
        lines += [f"## {name}", "", "| status | says | fault | source |", "|---|---|---|---|"]
        for row in rows:
            statuses = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in row.statuses)
            lines.append(f"| {statuses} | {_said(row)} | {row.blame.value} | {row.source} |")
        lines.append("")
    lines += ["Any other 4xx: the request. Anything else, a redirect too: the upstream.", ""]
    return "\n".join(lines)


def _said(row: Row) -> str:
    parts = []
    if row.codes:
        parts.append("a code of " + ", ".join(f"`{code}`" for code in sorted(row.codes)))
    if row.begins:
        parts.append("begins with " + ", ".join(f"“{text}”" for text in row.begins))
    if row.holds:
        parts.append("says " + ", ".join(f"“{text}”" for text in row.holds))
    parts += [name for name in ("flagged", "html", "empty") if getattr(row, name)]
    return "; or ".join(parts) or "anything"
