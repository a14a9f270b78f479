"""What is measured, each as one running server; what it used is read from /proc.

target          starts the relay, a peer, or nothing at all
relay_server    the whole relay, with its own databases
upstream        how the upstream behind them answers; starts it, scripted or canned
canned          an upstream whose answers stand ready
place           where a target runs, and the target that runs there
processes       starts and ends servers; CPU, memory and files of process trees
guard           one server: nothing of it outlives the benchmark
books           whether every call is in the request log, once
redis_counters  how often Redis was asked
"""
