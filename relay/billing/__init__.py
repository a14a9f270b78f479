"""What a call costs, and how an account is recharged: arithmetic on integers, nothing else.

budget         Budgets that end: what may be used in a day, week or month by the calendar of a zone
charged        What of a call is charged: what was said, what is missing estimated, what cannot be
               left out
codes          Redemption codes: made from random bytes, read back however a person types them. Pure
hold           What is held for a call at admission: an upper bound, settled by the difference
import_prices  Reads other people's price lists into prices: a public cost map, and new-api's ratios
price          What a call costs: usage x list price x multipliers, in integers, rounded once
purse          The slice of an account's balance that one worker may spend on its own
recharge       What a recharge is worth, and who becomes an enterprise by it. Integers only
shapes         The facts and the results of billing, immutable; what is computed with them is beside
               this
signature      The signature of a payment callback: HMAC-SHA256 over timestamp, a dot, and the raw
               body. Pure
stripe         What Stripe says of a payment page: its signature, and the fields that money depends
               on. Pure
tariff         A price as one group pays it, in lowest terms: the hot path computes holds and
               charges from it
unpriced       What a call asks for that its model has no price for: refused by name, never given
               away
"""
