"""Commands about this host: its processes, configuration, health and benchmarks.

bench     `relay bench`: hands over to the benchmark suite, which is not part of the installed
          package
config    `relay config show`: every setting as it is in force, and where it comes from
database  `relay db`: the schema, and a role that may serve but not rewrite the books
doctor    `relay doctor`: what is wrong with this host, and the command that mends it
maintenance  `relay maintenance`: what the night does, did and is to do
mock      `relay mock`: a scripted OpenAI-compatible upstream for the demonstration, tests,
          benchmarks
serve     `relay serve`, and the hidden commands that its children run
top       `relay top`: lines, channels, workers and keys of a running relay, as they are now
upgrade   `relay upgrade`: have the relay that runs become the release and the configuration of now
"""
