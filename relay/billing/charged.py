"""What of a call is charged: what was said, what is missing estimated, what cannot be left out.

    reported, whole   as said; a side that it left out is estimated and marked
    reported, cut     what it told so far, or what was delivered if that is more
    not reported      the prompt and what was delivered, estimated and marked
    more than can be  cut; the rest is kept beside it as disputed, charged to nobody

Of a call of which nothing was delivered nothing is charged: whoever settles it does not come here.
"""

import dataclasses
from typing import Final

import msgspec

from relay.billing.shapes import Delivered
from relay.extras import NO_EXTRAS, NOTHING_ASKED, Asked
from relay.usage import INPUT_UNTOLD, OUTPUT_UNTOLD, Usage, bounded

TEMPLATE_TOKENS: Final = 4_096
"""What a provider may put before a prompt: its template, the words that explain tools."""
IMAGE_TOKENS_MAX: Final = 50_000
"""Of one picture; the dearest known way of counting comes to some 36,000."""
WINDOW_TOKENS: Final = 2_097_152
"""The largest prompt that a model on sale takes."""
ANSWER_TOKENS: Final = 262_144
"""The longest answer that a model on sale gives, reasoning included."""
SAMPLINGS: Final = 16
"""How often a provider's own tools make it go on from what they found: each time it reads the
prompt again and may write as much as was allowed."""
_BOTH: Final = INPUT_UNTOLD | OUTPUT_UNTOLD
VIDEO_MS: Final = 4_000
"""Of a video of which nobody says how long it is. Source: OpenAI API reference, Create video."""
VIDEO_MS_MAX: Final = 600_000
"""No model on sale makes a longer one at once: a claim beyond it is not believed."""
SLACK_TOKENS: Final = 64
"""Providers count the words that end an answer, some beyond the bound."""


def input_max(body_bytes: int, images: int, asked: Asked = NOTHING_ASKED) -> int:
    """Return the most input tokens that a request can be: no token is less than a byte of it.

    Pictures count as their bytes or as IMAGE_TOKENS_MAX, whichever is more.
    """
    if asked.requests:
        return body_bytes  # bounded request by request, before
    if asked.reaches_out or asked.searches or asked.sessions:
        return WINDOW_TOKENS * (SAMPLINGS if asked.searches or asked.sessions else 1)
    return body_bytes + images * IMAGE_TOKENS_MAX + TEMPLATE_TOKENS


def output_max(
    bound_tokens: int | None, choices: int, bytes_out: int, asked: Asked = NOTHING_ASKED
) -> int:
    """Return the most output tokens that an answer can be.

    Args:
        bound_tokens: The client's bound on each choice, None = it set none.
        choices: Answers that are made, whether they are shown or not.
        bytes_out: Of the answer.
        asked: Tools of the provider's own multiply what is written.
    """
    if asked.requests:
        bounded_tokens = (bound_tokens or 0) + SLACK_TOKENS * asked.requests
        tools = SAMPLINGS if asked.searches or asked.sessions else 1
        return (bounded_tokens + ANSWER_TOKENS * asked.unbounded) * tools
    samplings = SAMPLINGS if asked.searches or asked.sessions else 1
    if bound_tokens is None:
        return max(ANSWER_TOKENS * choices * samplings, bytes_out)
    return (bound_tokens + SLACK_TOKENS) * choices * samplings


def complete(reported: Usage | None, facts: Delivered) -> Usage:
    """Return the usage that a client pays for whose answer, or part of it, was delivered."""
    usage = _fill(reported, facts)
    if usage.input_tokens > facts.input_max or usage.output_tokens > facts.output_max:
        usage = _cut(usage, facts)
    if facts.asked is not NOTHING_ASKED:
        return _add_asked(usage, facts, whole=facts.whole and reported is not None)
    return usage


def _fill(reported: Usage | None, facts: Delivered) -> Usage:
    if reported is None:
        tokens = facts.input_estimate, facts.output_estimate
        return Usage(input_tokens=tokens[0], output_tokens=tokens[1], estimated=any(tokens))
    if facts.whole and not reported.untold:
        return reported
    given, output = reported.input_tokens, reported.output_tokens
    wordless = facts.whole and not facts.output_estimate
    if reported.untold == _BOTH and reported.total_tokens and wordless:
        # Vectors and ranks are no tokens: a total is what was read. Voyage and Jina tell no more.
        total = reported.total_tokens
        return dataclasses.replace(reported, input_tokens=total, untold=0, total_tokens=0)
    if reported.untold & INPUT_UNTOLD:
        given = max(given, facts.input_estimate)
        if reported.total_tokens and reported.untold & OUTPUT_UNTOLD:
            given = min(given, reported.total_tokens)
    if reported.untold & OUTPUT_UNTOLD or not facts.whole:
        output = max(output, facts.output_estimate)
        if reported.total_tokens:
            output = max(reported.total_tokens - given, 0)
    guessed = (given, output) != (reported.input_tokens, reported.output_tokens)
    return dataclasses.replace(
        reported,
        input_tokens=given,
        output_tokens=output,
        estimated=guessed or not facts.whole,
        untold=0,
        total_tokens=0,
    )


def _cut(usage: Usage, facts: Delivered) -> Usage:
    """Return a claim within what can be, the rest of it as disputed."""
    given = min(usage.input_tokens, facts.input_max)
    output = min(usage.output_tokens, facts.output_max)
    extras = msgspec.structs.replace(
        usage.extras or NO_EXTRAS,
        disputed_input_tokens=usage.input_tokens - given,
        disputed_output_tokens=usage.output_tokens - output,
    )
    cut = dataclasses.replace(usage, input_tokens=given, output_tokens=output, extras=extras)
    return bounded(cut)


def _add_asked(usage: Usage, facts: Delivered, *, whole: bool) -> Usage:
    """Add the units that the request itself tells, and those that nobody told.

    Tools that may have run cost one run where nobody can say; a tier that was asked for counts
    where nobody says which was served.
    """
    asked, extras = facts.asked, usage.extras or NO_EXTRAS
    searches, sessions = extras.searches, extras.sessions
    if not whole:
        searches = max(searches, min(asked.searches, 1))
        sessions = max(sessions, asked.sessions)
    told = usage.tier_told or bool(extras.tier)
    added = msgspec.structs.replace(
        extras,
        tier=extras.tier if told else facts.tier,
        characters=asked.characters or extras.characters,
        image_class=extras.image_class or asked.image_class,
        audio_ms=extras.audio_ms or asked.audio_ms,
        search_units=extras.search_units or asked.search_units,
        searches=searches,
        sessions=sessions,
        video_ms=_video_ms(asked, extras.video_ms),
        video_class=asked.video_class or extras.video_class,
        # No more were served than were asked, whatever their provider counts.
        requests=min(extras.requests, asked.requests),
    )
    images = asked.images or usage.images
    return dataclasses.replace(usage, images=images, extras=None if added == NO_EXTRAS else added)


def _video_ms(asked: Asked, told_ms: int) -> int:
    """Return how much video is charged for: what its provider says it made, else what was asked."""
    if told_ms:
        return min(told_ms, VIDEO_MS_MAX)
    return asked.videos * (asked.video_ms or VIDEO_MS)
