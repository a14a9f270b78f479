"""What a call takes before it may ask: tokens, permits, money.

budgets         The reservation of budgets: what a key or account may use today, this week or this
                month
call_queues     Where calls wait for room, as long as their line lets them; what room is, a Search
                knows
channel_queues  Where calls wait whose channels have all spent their own quota, as long as their
                line lets them
channel_quotas  The quotas of upstreams: tokens, requests and permits of a channel, shared by all
                lines on it
credit          The reservation of money: each call holds what it may cost, out of credit leased
                ahead of need
credit_account  One account's credit in one worker: its purse, who waits for it, and how much is
                worth leasing
holds           What is held for a call before it runs, of its account's balance and of its key's
                quota
key_quotas      The reservation of a key's quota: each call holds what it may cost, as it does of
                the balance
leasing         The leases of one worker: a task asks a lender ahead of need, and calls hold out of
                purses
line_queues     Where calls wait that are over a limit of their line, model, account or key
limits          The reservation of limits: tokens, requests and permits of a call's line, model,
                account and key
refusals        What a client is told when a limit says no: whose limit, how much of it is used, and
                when again
reservations    What a call has to pay before a channel is asked: tokens of its limits, money of its
                account
"""
