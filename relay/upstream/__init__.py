"""The client side of HTTP/1.1: pooled connections to the providers."""
