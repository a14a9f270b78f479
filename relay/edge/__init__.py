"""The server side: aiohttp's low-level server in front of the flow."""
