"""The load generator: calls at intended times, and what came back; knows nothing of targets."""
