"""What keeps a catalog up to date: official prices, and the lists of models of upstreams.

keeper     Keeps the catalog in step: lists taken over by rule, official prices obeyed, margins
           counted
official   Official prices and context windows, out of a package that is kept by others
questions  Asks upstreams which models they have, many at once, each within its bounds
tokens     Tokens of channels that have no key: minted, kept sealed, and renewed at half of their
           life
"""
