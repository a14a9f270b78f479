"""The control plane's work beside its listener: journals into Postgres, the night's upkeep.

console_proxy  Passes on what the admin listener does not serve itself to the console
copies         Keeps the copies on this host's disk that workers start from while Postgres is away
looking        One look into Postgres after another, for ever, whatever happens to it meanwhile
secrets_desk   Answers commands that ask for a secret which only the service has
shipper        The shipper: tails the journals of this host's workers into the request log, exactly
               once
api/           The admin listener: what operators ask and change over HTTP
catalog/       What keeps a catalog up to date: official prices, and the lists of models of
               upstreams
doctor/        What is wrong with this host and what the relay stands on, and how to mend it
night/         What is done at night, and what cannot wait for one: housekeeping that no client
               notices
otlp/          Traces and metrics for a collector of OpenTelemetry, by choice
watch/         What the control plane looks after by itself, and whom it tells
"""
