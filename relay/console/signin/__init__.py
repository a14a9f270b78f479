"""Who somebody is, and what they may do.

actor       Who acts, and the one table of what each role may do
audit       The audit log: what was done, by whom, when, from where. Only ever added to
half        Half a log-in: that a password was right, kept by the browser until the code comes
identities  Who a user is at an identity provider: kept at the first sign-in, and the same ever
            after
journey     One attempt to sign in elsewhere, kept by the browser that began it. Pure
links       Links that are good once: to choose the first password, to choose another one, to sign
            in
management  Management keys: a Bearer for /account/v1. No worker knows them, so they call no model
passwords   Passwords: argon2id in threads of their own, so that a flood of log-ins holds up no
            page
sessions    Browsers that are signed in: made at log-in, found by the cookie's digest, ended
throttle    How often somebody may try: a leaky bucket for each name and each address. In memory
tokens      Secrets that are shown once and kept as keyed digests: sessions, links, management keys
totp        Codes of an authenticator: six digits of an HMAC over the half minute
users       People: found by e-mail on their side, invited, switched off, given a password or a
            code
"""
