"""A high-throughput relay in front of LLM providers."""

from relay.compiled import use_compiled

__version__ = "0.1.0"

use_compiled()
