"""What Postgres is asked: few statements a view, never a count of the log, never an OFFSET.

calls     A page of the request log by any filter, as fast at ten million rows as at ten
detail    One call, explained: the sum to the nano-dollar, the channels asked, where it was booked
export    What an export asks of Postgres: the log in turns of some thousand calls, newest first
forms     Cursors, moments, and the filters of a query string, as values
keys      An account's keys: listed, made, changed, rotated. Every statement names the account as
          well
money     An account's money: balance, ledger, orders, statements; exact to the nano-dollar
operator  What operators look at: channels, lines, accounts, how the relay itself does
overview  An account at a glance: what it has, how fast it goes, what needs a hand
pictures  Pictures of receipts: one of an order, kept by its holder, looked at by holder and support
prices    What a model costs an account: official price x group x model multiplier, exactly
usage     Charts and totals, from the sums by minute and hour: never from the log itself
"""
