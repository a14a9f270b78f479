"""The admin listener: what operators ask and change over HTTP.

api        The admin listener: health, metrics, and /admin/v1 for whoever holds the admin token
catalog    The catalog on the admin listener, for whoever holds the admin token
json       What every path of the admin listener has in common: JSON in, JSON out, failures as JSON
maintenance  The night on the admin listener, for whoever holds the admin token
metrics    What the workers counted, as Prometheus reads it
money      Money on the admin listener, for whoever holds the admin token
payment    POST /hooks/payment: the shop tells, signed, that an order is paid
queries    What a caller of the admin API asks for in a query string, as typed filters
readiness  Is this relay fit to take calls? Judged from what its workers publish
stripe     POST /hooks/stripe: Stripe tells, signed, how a payment page ended
"""
