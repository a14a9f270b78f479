"""Money in Postgres: entries, orders, codes, leases of credit.

audit          Checks the books against themselves: whatever differs by a single nano-dollar is a
               drift
budget_leases  Windows of budgets in Postgres: leased to workers, used by the calls that the
               shipper books
codes          Redemption codes: made by the batch, shown once, redeemed once; the books are in
               orders.py
credit_leases  Credit leases: slices of balances that workers spend without asking (see
               billing.purse)
credit_lender  Where one worker leases credit: a connection to Postgres of its own, made anew after
               a failure
ledger         The books: money moves by balanced transfers, each booked once however often it is
               tried
low_balances   Accounts whose balance fell below what their operator wants to be told of
orders         Recharges and redemption codes: money that comes in, each order and each code
               credited once
promotions     Who has earned enterprise status, and is moved to the group that sells it
recharges      A recharge as the configuration prices it: what commands, admin API and callbacks
               have in common
statements     An account's statement: what was booked on it, newest first, with the balance after
               each
"""
