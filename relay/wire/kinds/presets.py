"""One row for each kind of upstream: what a channel of it need not say.

Addresses and headers are those of the providers' own API references; what a provider charges when
a client leaves, and how it goes on from a partial answer, is in docs/streams.md. A row is no
promise: `relay channel test NAME` asks the upstream itself.
"""

from typing import Final

import msgspec

from relay.model import DEFAULT_DIALECT, AbortBills, Dialect, OpenAiApi, Resume
from relay.reach import MODEL, PATH, Auth, ClaudeHost
from relay.wire.kinds.address import NO_LISTING


class Preset(msgspec.Struct, frozen=True):
    """What is known of one kind. `base_url` "": each customer has an address like `example`."""

    name: str
    base_url: str = ""
    example: str = ""
    protocol: Dialect = DEFAULT_DIALECT
    auth: Auth = Auth.DIALECT
    resume: Resume = Resume.NONE
    abort_bills: AbortBills = AbortBills.PARTIAL
    include_usage: bool = True
    openai_api: OpenAiApi = OpenAiApi.BOTH
    query: dict[str, str] = {}
    paths: dict[str, str] = {}
    listing: str = ""
    claude_on: ClaudeHost = ClaudeHost.NOBODY
    prices: str = ""
    """What the provider is called in a list of official prices; "" = it has none."""
    keyless: bool = False
    """It runs without a credential."""


_FULL: Final = AbortBills.FULL
_CHAT: Final = OpenAiApi.CHAT
_DEPLOYMENT: Final = f"/deployments/{MODEL}{PATH}"
_DEPLOYED: Final = (
    *("chat/completions", "completions", "embeddings", "audio/speech", "audio/transcriptions"),
    *("images/generations", "images/edits", "images/variations", "audio/translations"),
)

_ROWS: Final = (
    Preset("openai", "https://api.openai.com/v1", prices="openai"),
    # Deployments are not listed to who has a key alone: their names are the models' here.
    Preset(
        "azure",
        example="https://RESOURCE.openai.azure.com/openai",
        auth=Auth.API_KEY,
        query={"api-version": "2024-10-21"},
        paths=dict.fromkeys(_DEPLOYED, _DEPLOYMENT),
        listing=NO_LISTING,
        prices="azure",
    ),
    Preset(
        "azure-v1",
        example="https://RESOURCE.openai.azure.com/openai/v1",
        auth=Auth.API_KEY,
        listing=NO_LISTING,
        prices="azure",
    ),
    Preset(
        "anthropic",
        "https://api.anthropic.com",
        protocol=Dialect.ANTHROPIC,
        prices="anthropic",
    ),
    Preset(
        "gemini",
        "https://generativelanguage.googleapis.com",
        protocol=Dialect.GEMINI,
        abort_bills=_FULL,
        prices="google",
    ),
    Preset(
        "vertex",
        example="https://aiplatform.googleapis.com/v1/projects/PROJECT/locations/global"
        "/publishers/google",
        protocol=Dialect.GEMINI,
        auth=Auth.GOOGLE,
        abort_bills=_FULL,
        listing=NO_LISTING,
        prices="google",
    ),
    Preset(
        "vertex-claude",
        example="https://aiplatform.googleapis.com/v1/projects/PROJECT/locations/global"
        "/publishers/anthropic",
        protocol=Dialect.ANTHROPIC,
        auth=Auth.GOOGLE,
        abort_bills=_FULL,
        listing=NO_LISTING,
        claude_on=ClaudeHost.VERTEX,
        prices="google",
    ),
    Preset(
        "bedrock-claude",
        example="https://bedrock-runtime.REGION.amazonaws.com",
        protocol=Dialect.ANTHROPIC,
        auth=Auth.BEARER,
        abort_bills=_FULL,
        listing=NO_LISTING,
        claude_on=ClaudeHost.BEDROCK,
        prices="aws",
    ),
    Preset(
        "bedrock-converse",
        example="https://bedrock-runtime.REGION.amazonaws.com",
        protocol=Dialect.ANTHROPIC,
        auth=Auth.BEARER,
        abort_bills=_FULL,
        listing=NO_LISTING,
        claude_on=ClaudeHost.CONVERSE,
        prices="aws",
    ),
    Preset(
        "bedrock",
        example="https://bedrock-runtime.REGION.amazonaws.com/openai/v1",
        abort_bills=_FULL,
        prices="aws",
    ),
    Preset(
        "openrouter",
        "https://openrouter.ai/api/v1",
        resume=Resume.TRAILING,
        prices="openrouter",
    ),
    # Going on from a partial answer is served below /beta only, which serves all else as well.
    Preset(
        "deepseek",
        "https://api.deepseek.com/beta",
        resume=Resume.PREFIX,
        listing="/models",
        openai_api=_CHAT,
        prices="deepseek",
    ),
    Preset(
        "mistral",
        "https://api.mistral.ai/v1",
        resume=Resume.PREFIX,
        abort_bills=_FULL,
        include_usage=False,
        openai_api=_CHAT,
        prices="mistral",
    ),
    Preset("groq", "https://api.groq.com/openai/v1", abort_bills=_FULL, prices="groq"),
    Preset("xai", "https://api.x.ai/v1", prices="x-ai"),
    Preset("together", "https://api.together.xyz/v1", openai_api=_CHAT, prices="together"),
    Preset("fireworks", "https://api.fireworks.ai/inference/v1", prices="fireworks"),
    Preset(
        "perplexity",
        "https://api.perplexity.ai",
        abort_bills=_FULL,
        include_usage=False,
        listing=NO_LISTING,
        openai_api=_CHAT,
        prices="perplexity",
    ),
    Preset(
        "cohere",
        "https://api.cohere.ai/compatibility/v1",
        listing="/v1/models",
        openai_api=_CHAT,
        prices="cohere",
    ),
    Preset(
        "moonshot",
        "https://api.moonshot.ai/v1",
        resume=Resume.PARTIAL,
        openai_api=_CHAT,
        prices="moonshotai",
    ),
    Preset("zhipu", "https://open.bigmodel.cn/api/paas/v4", openai_api=_CHAT, prices="zhipuai"),
    Preset(
        "qwen",
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        resume=Resume.PARTIAL,
    ),
    Preset("minimax", "https://api.minimax.io/v1", openai_api=_CHAT, prices="minimax"),
    Preset("doubao", "https://ark.cn-beijing.volces.com/api/v3"),
    Preset("siliconflow", "https://api.siliconflow.cn/v1", openai_api=_CHAT),
    Preset(
        "vllm",
        "http://127.0.0.1:8000/v1",
        resume=Resume.CONTINUE_FINAL_MESSAGE,
        keyless=True,
    ),
    Preset(
        "sglang",
        "http://127.0.0.1:30000/v1",
        resume=Resume.CONTINUE_FINAL_MESSAGE,
        keyless=True,
    ),
    Preset("ollama", "http://127.0.0.1:11434/v1", keyless=True),
    Preset("llama.cpp", "http://127.0.0.1:8080/v1", resume=Resume.ECHO, keyless=True),
    Preset("new-api", example="https://HOST/v1"),
)

PRESETS: Final = {row.name: row for row in _ROWS}
PLAIN: Final = Preset("")
"""What holds for a channel of no kind."""
FILLED: Final = (
    *("base_url", "protocol", "auth", "resume", "abort_bills", "include_usage"),
    *("openai_api", "query", "paths", "listing", "claude_on"),
)
"""What a kind fills in where a channel does not say it."""


def preset_of(kind: str) -> Preset:
    """Return the row of a kind; that of none for "".

    Raises:
        ValueError: There is no such kind.
    """
    if not kind:
        return PLAIN
    found = PRESETS.get(kind)
    if found is None:
        raise ValueError(f"kind: not one of {', '.join(PRESETS)}")
    return found
