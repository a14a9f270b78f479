"""What outlives a call: Postgres, Redis, the journal, secrets.

acts            The audit log: what was done, by whom, when, from where. Only ever added to
binary_copy     Rows that are new go into a table by COPY in the binary format
console_socket  The socket file between the admin listener and the console
kept            A connection that is kept: dialed by the first who needs it, and anew after a
                failure
maintenance     What the night's works did last, and what operators ask of the night; hosts share
                both
metrics         What a worker publishes of itself once a second, as one small file that is replaced
                whole
migrate         Bring a database to the schema of this code: schema/NNNN_name.sql, each applied
                once, in order
owners          Who made what, in Redis: a digest, and the numbers of an account, a channel and a
                line
postgres        Connections to Postgres, and the border where its failures become ours
redis           Clients of Redis for what is not urgent, and the border where its failures become
                ours
redis_room      Whether Redis has room for what calls can do without: it may take half of what Redis
                may take
shared_redis    The Redis that hosts share, as `[redis] url` names it, found anew for each
                connection
thinking        What upstreams signed of their thinking, where all workers find it: sealed, in
                Redis, a while
billing/        Money in Postgres: entries, orders, codes, leases of credit
catalog/        The catalog in Postgres: stated by files, read by workers as one snapshot
embedded/       Our own Postgres and Valkey, where no others are named
health/         What workers tell each other about channels, over Redis
limits/         Buckets and permits in Redis: asked by few scripts, for all workers
log/            From the journal to the request log, and back out of it
outage/         What a host serves from while Postgres is away: copies on its own disk
secrets/        Secrets at rest, and the references that name them
"""
