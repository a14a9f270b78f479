-- The request log: one row a call, by day of its end; and what is folded from it by the minute.
--
-- Rows come from the workers' journals, shipped in batches. One transaction holds the rows, all that
-- is folded from them, and how far the journal was read, so a shipper that dies at any moment goes
-- on exactly behind the last row that counts.

CREATE TABLE journal_offsets (
    generation  text PRIMARY KEY,  -- one life of one worker on one host: the name of its folder
    segment     bigint NOT NULL,
    byte_offset bigint NOT NULL,   -- all before it is in request_log
    closed      boolean NOT NULL DEFAULT false  -- its open calls are in request_log as interrupted
);

-- The same record can reach us twice: after a disk error a worker repeats what may be lost, a COMMIT
-- can succeed without our hearing of it, a journal can be put back from a backup. So the offset is
-- not the only guard: an end carries its id and its time, the primary key takes it once, and only
-- the rows that went in are folded. (A key of a partitioned table must contain the partition's
-- column; a repeated record has the same time, so nothing is lost by that.)
CREATE TABLE request_log (
    request_id           uuid NOT NULL,         -- UUIDv7
    ended_at             timestamptz NOT NULL,  -- long streams would be missed by their start
    account_id           bigint NOT NULL,
    key_id               bigint NOT NULL,
    line_id              bigint NOT NULL,       -- 0 = none; so for channel_id, price_id
    channel_id           bigint NOT NULL,
    input_tokens         bigint NOT NULL,       -- cached and cache-written ones included
    cached_tokens        bigint NOT NULL,
    cache_write_tokens   bigint NOT NULL,
    output_tokens        bigint NOT NULL,       -- reasoning included
    reasoning_tokens     bigint NOT NULL,
    ttft_us              bigint NOT NULL,       -- 0 = no byte went out
    total_us             bigint NOT NULL,
    cost_nanos           bigint NOT NULL,       -- by price_id and the two multipliers: a receipt
    price_id             bigint NOT NULL,
    group_multiplier_ppm bigint NOT NULL,
    model_multiplier_ppm bigint NOT NULL,
    attempts             integer NOT NULL,
    status               smallint NOT NULL,     -- what the client got; 499 = it was gone
    stream               boolean NOT NULL,
    estimated            boolean NOT NULL,      -- tokens counted by us, not by the upstream
    ip                   inet,                  -- NULL = not an address
    endpoint             text NOT NULL,
    model                text NOT NULL,         -- as the client said it
    served_model         text NOT NULL,         -- as the upstream is asked for it
    reason               text NOT NULL,         -- relay.call.EndReason
    error_code           text NOT NULL,
    PRIMARY KEY (request_id, ended_at)
) PARTITION BY RANGE (ended_at);

CREATE INDEX request_log_ended ON request_log (ended_at DESC, request_id DESC);
CREATE INDEX request_log_account ON request_log (account_id, ended_at DESC);
CREATE INDEX request_log_key ON request_log (key_id, ended_at DESC);

-- With the key in it from the first day, so that every chart can be cut by key.
CREATE TABLE usage_minutes (
    minute        timestamptz NOT NULL,  -- in which the calls ended
    account_id    bigint NOT NULL,
    key_id        bigint NOT NULL,
    model         text NOT NULL,         -- '' where no line was found: strangers' words make no rows
    line_id       bigint NOT NULL,
    requests      bigint NOT NULL,
    errors        bigint NOT NULL,       -- neither completed nor left by the client
    limited       bigint NOT NULL,       -- answered 429; counted in errors too
    input_tokens  bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanos    bigint NOT NULL,
    PRIMARY KEY (minute, account_id, key_id, model, line_id)
) PARTITION BY RANGE (minute);

-- Where a key was used from. An IPv6 customer owns a /64 and moves in it, so that is what we keep.
CREATE TABLE key_addresses (
    key_id     bigint NOT NULL,
    ip         inet NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen  timestamptz NOT NULL,
    requests   bigint NOT NULL,
    PRIMARY KEY (key_id, ip)
) WITH (fillfactor = 80);

-- A row whose day has no partition (this machine slept for a week, a clock is wrong) goes here.
CREATE TABLE request_log_default PARTITION OF request_log DEFAULT;
CREATE TABLE usage_minutes_default PARTITION OF usage_minutes DEFAULT;

-- Makes the partitions of today (UTC) and of the days ahead; returns how many. Attached rather than
-- created in place, which would lock out readers and writers of the whole table; rows of such a day
-- in the default partition move over. It waits for no lock longer than lock_timeout, because
-- everybody else would queue up behind it: then it fails, and is called again.
CREATE FUNCTION day_partitions_prepare(parent text, at text, days_ahead integer) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '3s' SET timezone = 'UTC' AS $$
DECLARE
    day  date;
    part text;
    made integer := 0;
BEGIN
    FOR ahead IN 0..days_ahead LOOP
        day := current_date + ahead;
        part := parent || to_char(day, '_YYYYMMDD');
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS)', part, parent);
        EXECUTE format('WITH moved AS (DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *)
            INSERT INTO %5$I SELECT * FROM moved', parent || '_default', at, day, day + 1, part);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            parent, part, day, day + 1);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Drops all days before one; returns how many. Never a DELETE of a big table: that bloats its
-- indexes and keeps vacuum busy for hours.
CREATE FUNCTION day_partitions_drop(parent text, at text, before date) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '3s' SET timezone = 'UTC' AS $$
DECLARE
    part    text;
    dropped integer := 0;
BEGIN
    FOR part IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = parent::regclass AND relname ~ '_[0-9]{8}$'
            AND right(relname, 8) < to_char(before, 'YYYYMMDD')
    LOOP
        EXECUTE format('DROP TABLE %I', part);
        dropped := dropped + 1;
    END LOOP;
    EXECUTE format('DELETE FROM %I WHERE %I < %L', parent || '_default', at, before);
    RETURN dropped;
END $$;

SELECT day_partitions_prepare('request_log', 'ended_at', 7);
SELECT day_partitions_prepare('usage_minutes', 'minute', 7);
