"""More calls than a worker can carry: found where lateness stands, refused as cheaply as can be.

allowance  How many calls may run at once in overload: as many as leave the loop in time
gate       Who is let in in overload, and when one begins and ends
glance     What the first bytes of a plain call say at first sight: whose it is, and what for
lateness   How late the loop is, and for how long without a break
own_time   How much of a lateness is a worker's own: not that of others on its processor
quota      How often and for how long this process was kept waiting: its control group's quota was
           used up
refusals   Prepared answers to who is not let in
screen     The cheap door: who dials in overload is answered before a connection is made of it
"""
