"""Peers that are measured beside the relay in the same run.

table          each peer as data: where it comes from, how it is run, what it does
install        sets them up, each in a folder of its own
debian         Debian's packages: installed as root, else unpacked
listing        `relay bench peers`
plain_aiohttp  the obvious relay in Python, which is one of them
"""
