"""What is asked, how often, of which upstream, and how such a run goes.

table    the scenarios as data
suite    runs one: targets take turns under the same schedule
special  those that are more than one load on one target
isolation  what a dedicated line feels of floods beside it
idle     what the relay uses while nobody asks it anything
wrong_keys  what everybody else feels of one address that tries 10,000 wrong keys a second
staging  the relay before scripted upstreams, for those that are more than one load
measure  one load on one target, and what all used meanwhile
url      a load on any URL
listing  `relay bench list`
"""
