-- Background responses whose worker is gone: they end at their provider all the same, and whichever
-- worker finds out how settles them, once. Expand only: a release of before charges such a call by
-- its last checkpoint, and leaves this table alone.
CREATE TABLE unended_calls (
    request_id uuid PRIMARY KEY,
    owner   text NOT NULL UNIQUE,          -- of credit_owners: what holds the call's money now
    start      bytea NOT NULL,             -- the journal's records of it
    checkpoint bytea NOT NULL,
    looks   int NOT NULL DEFAULT 0,        -- how often it was asked for
    gone    int NOT NULL DEFAULT 0,        -- how often its provider did not know it
    due_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX unended_calls_due ON unended_calls (due_at);
