"""The control plane's work beside its listener: journals into Postgres, the night's upkeep.

console_proxy  Passes on what the admin listener does not serve itself to the console
copies         Keeps the copies on this host's disk that workers start from while Postgres is away
secrets_desk   Answers commands that ask for a secret which only the service has
shipper        The shipper: tails the journals of this host's workers into the request log, exactly
               once
upkeep         Daily upkeep: tomorrow's partitions made, those past retention dropped, lost credit
               set free
api/           The admin listener: what operators ask and change over HTTP
catalog/       What keeps a catalog up to date: official prices, and the lists of models of
               upstreams
doctor/        What is wrong with this host and what the relay stands on, and how to mend it
watch/         What the control plane looks after by itself, and whom it tells
"""
