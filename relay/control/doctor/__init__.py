"""What is wrong with this host; each check reads and never writes: no secret, table or setting.

certificates  When a certificate in a PEM file expires
diagnosis     What one check found
disk          Room for the journal, what of it is not in Postgres yet, and who can read the secrets
examine       All checks of one relay, each within a deadline
host          What the kernel allows this relay: descriptors, sockets, ports, clock
postgres      Is Postgres there, fast and new enough; is its schema ours, do keys fit our secrets
redis         Is Redis there, fast and new enough, and does it keep what it is given
upstreams     Can the channels' hosts be found, and do their certificates hold
"""
