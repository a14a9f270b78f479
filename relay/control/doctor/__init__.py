"""What is wrong with this host and what the relay stands on, each with the command that mends it.

diagnosis     what one check found
host          what the kernel allows: descriptors, sockets, ports, clock
disk          room, the journal's backlog, secrets' modes
certificates  when a certificate file expires
upstreams     names and TLS of the channels' hosts
postgres      reachability, latency, version, schema, partitions, pepper, master key
redis         reachability, latency, version, memory policy
examine       all of them, each within a deadline

It reads and never writes: no secret is made, no table, no setting.
"""
