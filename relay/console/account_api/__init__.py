"""/account/v1: what an account does with itself, by a session or a management key.

calls    The request log of an account
compat   The calls that tools of other relays know: balance and usage as OpenAI's dashboard told
         them
export   The log as CSV or NDJSON: Postgres writes the text, we pass it on as fast as it is read
keys     The keys of an account
money    The money of an account: balance, ledger, orders, codes, prices
openapi  The OpenAPI 3.1 document, made of the routes' own types: it cannot differ from what they
         do
people   Who may sign in to an account, what was done there, and how it is told of what concerns it
"""
