"""What a call asks for and uses that is no token: each of it has a price of its own."""

import msgspec


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for beside tokens; none is made for a call that asks for no such thing.

    `tier`: whose rates it wants ("priority", "flex", "batch", "fast"), "" = the standard ones.
    `images`, `image_class`: how many, and their quality and size like "high 1024x1024", "" where
    the request does not say. `characters`: of text to be spoken. `audio_ms`: of sound sent, as
    long as its bytes can be. `searches`, `sessions`: the most that the provider's own tools may
    run. `search_units`: of a reranker, as its provider counts documents. `videos`: how many, of
    `video_ms` milliseconds each (0 = the request does not say) and of a size like "1280x720", ""
    where it does not say. `hour_cache`: something is to be cached for an hour. `makes_pictures`: a
    tool of the provider's may, and nothing tells how many. `silent_format`: of an answer that does
    not say how long the sound was. `reaches_out`: it refers to what is not in its bytes (an
    address, a file, an earlier answer), so that these bound nothing. `requests`: of a batch, 0 = it
    is none; `unbounded`: answers of them that are as long as they get.
    """

    tier: str = ""
    images: int = 0
    image_class: str = ""
    characters: int = 0
    audio_ms: int = 0
    searches: int = 0
    sessions: int = 0
    search_units: int = 0
    videos: int = 0
    video_ms: int = 0
    video_class: str = ""
    hour_cache: bool = False
    makes_pictures: bool = False
    silent_format: bool = False
    reaches_out: bool = False
    requests: int = 0
    unbounded: int = 0


class Extras(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Units beside tokens that a call used, as the request log keeps them; most calls have none.

    `tier`: whose rates it was served at, "" = standard. `audio_ms`: milliseconds of sound
    transcribed. `characters`: of text made to sound. `image_class`: as in Asked. `searches`: of the
    web or of files. `sessions`: of a code interpreter. `search_units`: of a reranker. `video_ms`:
    milliseconds of video made, `video_class`: its size. `disputed_*_tokens`: what an upstream
    claimed beyond what can be, charged to nobody (billing.charged). `requests`: those of a batch
    that were served.
    """

    tier: str = ""
    audio_ms: int = 0
    characters: int = 0
    image_class: str = ""
    searches: int = 0
    sessions: int = 0
    search_units: int = 0
    video_ms: int = 0
    video_class: str = ""
    disputed_input_tokens: int = 0
    disputed_output_tokens: int = 0
    requests: int = 0


NO_EXTRAS = Extras()
NOTHING_ASKED = Asked()
REACHES_OUT = Asked(reaches_out=True)
