"""The relay command: one module a group of commands.

accounts  `relay account` and `relay line`: who pays, and what is on sale
bench     `relay bench`: hands over to the benchmark suite, which is not part of the installed
          package
catalog   `relay check` and `relay apply`: the catalog as a file
channels  `relay channel`: the upstreams of the catalog, day by day
codes     `relay code`: redemption codes, made, listed, redeemed
config    `relay config show`: every setting as it is in force, and where it comes from
database  `relay db`: the schema, and a role that may serve but not rewrite the books
doctor    `relay doctor`: what is wrong with this host, and the command that mends it
figures   What /metrics said twice becomes what happened between: the figures of `relay top`
keys      `relay key`: made, listed, switched off and on, deleted
limits    `relay limits`: which limit binds a key now
logs      `relay logs` and `relay usage`: what the request log says
mock      `relay mock`: a scripted OpenAI-compatible upstream for the demonstration, tests,
          benchmarks
money     `relay recharge`, `credit`, `balance`, `ledger`, `audit`: what an account has, and why
notes     What an operator is told, on stderr, about the catalog as it now is
numbers   Whole numbers on the command line: digits and nothing else
orders    `relay order`: recharges on their way, from opened to credited
output    How commands show rows: aligned columns for people, one JSON array for programs
prices    `relay price`: what models cost, and other people's price lists taken over
probe     One real question to an upstream: are its address, its certificate and our credential
          good?
root      The `relay` command: finds its subcommands when they are called, and turns errors into
          exits
serve     `relay serve`, and the hidden commands that its children run
session   A command's way to the catalog: one connection for as long as its work takes
top       `relay top`: lines, channels, workers and keys of a running relay, as they are now
users     `relay user`: who may sign in to the console; invited, listed, switched off, given a link
"""
