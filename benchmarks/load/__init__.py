"""The load generator: calls at intended times, and what came back; knows nothing of targets.

job         what one generator process is told, and what it answers
request     the bytes of a call, as its client would send it
generator   one such process: an open or a closed loop
stranger    one that tries keys, over sockets of its own, whatever becomes of them
drive       starts the processes of a load and joins what they saw
connection  one keep-alive connection: asks, and reads just enough
clock       a timer that is precise to some microseconds
tally       what the connections count
diary       what a load tells while it is under way: failed calls, counts
histogram   percentiles of bounded error
"""
