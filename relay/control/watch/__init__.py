"""What the control plane looks after by itself, and whom it tells.

alarms         Alarms: a channel refused our credential, and only an operator can help
channel_names  The channels of the catalog as the control process knows them: names, addresses,
               credentials
channels       The control process's eye on the channels: alarms, probes and metrics, from what
               workers tell
host           The control process's eye on its host: what is wrong with what the relay stands on
journals       Watches the workers' journals, and tells the operator of one that cannot be written
money          The control process's eye on money and keys: what is due is done, what is new is told
notices        What operators are told of money and keys: notices for the webhook, lines for the
               log, counters
probe          One real question to an upstream: are its address, its certificate and our credential
               good?
prober         Finds out that a dead channel lives again before a client's call has to
troubles       Alarms that last: each is told once when it begins, and once when it is over
webhook        Carries alarms to the operator's webhook: a few tries with a deadline each, then only
               the log
"""
