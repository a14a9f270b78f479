"""A scripted upstream for the demo, the tests and the benchmarks."""
