"""Commands about what is sold: the catalog, channels, prices, limits.

blocks         `relay block`: who is refused at the door, who is let in whatever, and what a code
               means
catalog        `relay check` and `relay apply`: the catalog as a file
channel_kinds  `relay channel add|show|presets`: a channel in one line, and where its settings come
               from
channels       `relay channel`: the upstreams of the catalog, day by day
importing      `relay import`: another relay's channels, groups, prices, accounts and keys
               taken over
limits         `relay limits`: which limit binds a key now
models         `relay models`: what upstreams list against what is sold
price_sync     `relay price sync`: official prices against ours, model by model
prices         `relay price`: what models cost, and other people's price lists taken over
"""
