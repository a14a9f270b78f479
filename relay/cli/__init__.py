"""The relay command: one module a group of commands.

acts        Commands that change something, and what of their arguments says to whom
figures     What /metrics said twice becomes what happened between: the figures of `relay top`
logs        `relay logs` and `relay usage`: what the request log says
notes       What an operator is told, on stderr, about the catalog as it now is
numbers     Whole numbers on the command line: digits and nothing else
output      How commands show rows: aligned columns for people, one JSON array for programs
root        The `relay` command: finds its subcommands when they are called, and turns errors into
            exits
session     A command's way to the catalog: one connection for as long as its work takes
customers/  Commands about those who pay: accounts, users, keys, money
host/       Commands about this host: its processes, configuration, health and benchmarks
supply/     Commands about what is sold: the catalog, channels, prices, limits
"""
