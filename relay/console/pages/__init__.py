"""The pages' paths: a handler reads what its view needs and returns it, or acts and redirects.

billing           Billing: what there is, what was booked, orders and what to do about them, codes,
                  statements
entrances         How people come in and go out: the same on both sides
keys              Keys: made, changed, rotated, and the three clicks of a leak: its calls, off, a
                  new one
looking           What an account looks at: the overview, the log, one call, usage
oidc              Signing in at an identity provider: out to it, and back with who it says one is
operator          The operator's pages of the machine: overview, channels, lines, accounts,
                  maintenance
operator_catalog  The catalog page: a file is read, shown as what it would change, and applied as it
                  was shown
operator_log      The request log of all accounts, for operators; each call explained as its holder
                  sees it
operator_money    The operator's pages of money: orders and what is stuck, prices and what a change
                  would do
operator_people   The operator's pages of people: users of all accounts, operators, the audit log
prices            The prices page: an account's own prices; a stranger's, where the operator allows
                  it
settings          Settings: one's own password, second factor and sessions; an owner's users and
                  webhook
"""
