"""What is known of a model whoever sells it: told to who asks, never needed to serve a call."""

import msgspec


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model whoever sells it; 0 and (): nobody said."""

    context_tokens: int = 0
    output_tokens: int = 0
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
