"""The protocols as pure values: bytes in, values out."""
