"""Buckets and permits in Redis: asked by few scripts, for all workers.

lendings      How channels stand between classes of lines: what is reserved, used, lent and borrowed
              now
levels        How full the limits are now, for those who only look: read from what the workers keep
              in Redis
limiter       What the flow asks for a call: may it run now, and what did it use
node_lists    Which Redis the limits live on, as relay.toml says: one, one behind Sentinels, a
              cluster
nodes         The Redis servers that limits live on: one, or the shards of a Redis Cluster
redis_driver  Asks one Redis for everything that a worker's limits need, one batch at a time
reports       What operators ask about limits: the load of each line, and which limit binds a key
              now
resp          A pipelined connection to Redis for the limiter's scripts: a few microseconds a call
sentinel      Which Redis is the primary now, as the Sentinels say
"""
