"""Token buckets, leases of them, permits: the arithmetic of limits. Pure.

addresses     What addresses may do at the door: who is blocked, who asks too much, who tries keys
batch         One question on its way to the bank: what went into it, and what its end means for the
              leases
broker        Decides calls over many leases, all or nothing, and says what to ask the bank
bucket        The arithmetic of a bucket (GCRA), and the one question that a worker asks about many
              at once
decision      What a call is told that asks to run: yes, no and why, or wait
estimate      What a call will use, guessed before it runs: no tokenizer, learned from what calls
              did use
fair_queue    Calls of one line that wait for its limits: fair by account, bounded in calls and
              bytes
heartbeat     Who else is there: each worker tells its demand once a second, and learns its part of
              all
lease         One bucket as one worker sees it: what it has leased, what it needs, what it was told
lending       What lines share: a channel's quota, reserved for dedicated lines and lent while they
              are idle
leases        All leases of one worker, by bucket
limit_set     All buckets and concurrency limits of a call in one object, which is made once and
              spent many times
permits       Calls in flight: permits that workers hold in blocks, and count on their own
pressure      How full a worker is, and which calls it sends away for that
rate_headers  What a client is told about its limits: the rate headers, by the names of its
              dialect
scopes        Which buckets and permits a call draws on, under which keys, and by which rules
"""
