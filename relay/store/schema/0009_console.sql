-- The console: who may sign in, what they did, and sums that its charts and filters are answered by.

-- An account's people, and operators (account_id NULL). A user without a password was invited and
-- has not come yet. totp_sealed: as a channel's credential, see vault.py; NULL = no second factor.
CREATE TABLE users (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id   bigint REFERENCES accounts,
    email        text NOT NULL CHECK (email <> '' AND email = lower(email)),
    role         text NOT NULL CHECK (role IN ('owner', 'member', 'viewer', 'operator')),
    password     text,                        -- argon2id, in its own notation
    totp_sealed  bytea,
    totp_step    bigint NOT NULL DEFAULT 0,   -- of the last code taken: each is good once
    disabled     boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz,
    CHECK ((role = 'operator') = (account_id IS NULL))
);
-- One person may be an account's user and an operator: two sides, two passwords.
CREATE UNIQUE INDEX users_email ON users (email, (account_id IS NULL));
CREATE INDEX users_account ON users (account_id, id);

-- A browser that is signed in. Of its token we keep the digest: who reads this table is nobody.
CREATE TABLE sessions (
    digest     bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    id         bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    user_id    bigint NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ip         inet,
    agent      text NOT NULL DEFAULT ''
);
CREATE INDEX sessions_user ON sessions (user_id);

-- Links that are good once: to choose the first password, another one, or to sign in.
CREATE TABLE sign_in_links (
    digest     bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    user_id    bigint NOT NULL REFERENCES users,
    kind       text NOT NULL CHECK (kind IN ('invite', 'reset', 'login')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);

-- Keys for /account/v1. They are no keys of the catalog: no worker knows them, so they call nothing.
CREATE TABLE management_keys (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id   bigint NOT NULL REFERENCES accounts,
    name         text NOT NULL CHECK (name <> ''),
    digest       bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    last4        text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    deleted_at   timestamptz
);
CREATE UNIQUE INDEX management_keys_name ON management_keys (account_id, name)
    WHERE deleted_at IS NULL;

-- Every act: who did what to whom, when, from where. Only ever added to.
CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL CHECK (actor <> ''),
    user_id    bigint,
    account_id bigint,                       -- whose matter it is; NULL: the operator's own
    act        text NOT NULL CHECK (act <> ''),
    target     text NOT NULL DEFAULT '',
    detail     text NOT NULL DEFAULT '',
    ip         inet
);
CREATE INDEX audit_log_account ON audit_log (account_id, id);
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what was done was done', TG_OP, TG_TABLE_NAME;
END $$;
CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- Where an account itself is told of new addresses, a low balance and stuck orders.
CREATE TABLE account_contacts (
    account_id     bigint PRIMARY KEY REFERENCES accounts,
    webhook_sealed bytea NOT NULL DEFAULT ''  -- a URL may hold a token
);

-- What an account was told there: a row is a claim, so that one of many hosts tells, and once.
CREATE TABLE account_told (
    account_id bigint NOT NULL REFERENCES accounts,
    event      text NOT NULL,
    subject    text NOT NULL,
    told_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, event, subject)
);

-- A key that was rotated works until expires_at, beside the one that took its name.
ALTER TABLE keys ADD COLUMN replaced_by bigint REFERENCES keys;

-- What the holder of a stuck order tells support.
ALTER TABLE orders ADD COLUMN note text NOT NULL DEFAULT '' CHECK (length(note) <= 1000);

-- Time to the first byte, counted by steps: element i counts calls whose first byte came within
-- 5 ms x 2^((i-1)/2) and not within the step before; the last one also all that were slower. NULL:
-- of before, or nothing was streamed. Percentiles of any sum of rows come from the sums of elements.
ALTER TABLE usage_minutes ADD COLUMN ttft_counts integer[];
CREATE INDEX usage_minutes_account ON usage_minutes (account_id, minute);

-- The same by the hour: charts of weeks and months. The two maxima tell which hours hold a call that
-- was so slow or so dear, so that a filter reads only these of the log.
CREATE TABLE usage_hours (
    hour           timestamptz NOT NULL,
    account_id     bigint NOT NULL,
    key_id         bigint NOT NULL,
    model          text NOT NULL,
    line_id        bigint NOT NULL,
    requests       bigint NOT NULL,
    errors         bigint NOT NULL,
    limited        bigint NOT NULL,
    input_tokens   bigint NOT NULL,
    cached_tokens  bigint NOT NULL,
    output_tokens  bigint NOT NULL,
    cost_nanos     bigint NOT NULL,
    total_us_max   bigint NOT NULL,
    cost_nanos_max bigint NOT NULL,
    ttft_counts    integer[],
    PRIMARY KEY (account_id, hour, key_id, model, line_id)
) WITH (fillfactor = 80);
CREATE INDEX usage_hours_hour ON usage_hours USING brin (hour) WITH (pages_per_range = 16);

-- And by the day (UTC).
CREATE TABLE usage_days (
    day           timestamptz NOT NULL,
    account_id    bigint NOT NULL,
    key_id        bigint NOT NULL,
    model         text NOT NULL,
    line_id       bigint NOT NULL,
    requests      bigint NOT NULL,
    errors        bigint NOT NULL,
    limited       bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanos    bigint NOT NULL,
    ttft_counts   integer[],
    PRIMARY KEY (account_id, day, key_id, model, line_id)
) WITH (fillfactor = 80);
CREATE INDEX usage_days_day ON usage_days USING brin (day) WITH (pages_per_range = 16);

-- What was not answered with 200, by the minute: few rows where all is well. What was is the
-- difference to usage_minutes and usage_hours.
CREATE TABLE usage_failures (
    minute        timestamptz NOT NULL,
    account_id    bigint NOT NULL,
    key_id        bigint NOT NULL,
    model         text NOT NULL,
    line_id       bigint NOT NULL,
    status        smallint NOT NULL,
    error_code    text NOT NULL,
    requests      bigint NOT NULL,
    errors        bigint NOT NULL,
    limited       bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanos    bigint NOT NULL,
    PRIMARY KEY (account_id, minute, key_id, model, line_id, status, error_code)
) WITH (fillfactor = 80);
CREATE INDEX usage_failures_minute ON usage_failures USING brin (minute) WITH (pages_per_range = 16);

-- Sums of before, from what there is; their maxima are unknown, so nothing is left out by them.
INSERT INTO usage_hours
    SELECT date_trunc('hour', minute, 'UTC'), account_id, key_id, model, line_id, sum(requests),
        sum(errors), sum(limited), sum(input_tokens), sum(cached_tokens), sum(output_tokens),
        sum(cost_nanos), 9223372036854775807, 9223372036854775807, NULL
    FROM usage_minutes GROUP BY 1, 2, 3, 4, 5;
INSERT INTO usage_days
    SELECT date_trunc('day', hour, 'UTC'), account_id, key_id, model, line_id, sum(requests),
        sum(errors), sum(limited), sum(input_tokens), sum(cached_tokens), sum(output_tokens),
        sum(cost_nanos), NULL
    FROM usage_hours GROUP BY 1, 2, 3, 4, 5;
INSERT INTO usage_failures
    SELECT date_trunc('minute', ended_at, 'UTC'), account_id, key_id,
        CASE line_id WHEN 0 THEN '' ELSE model END, line_id, status, error_code, count(*),
        count(*) FILTER (WHERE reason NOT IN ('completed', 'client_gone')),
        count(*) FILTER (WHERE status = 429), sum(input_tokens), sum(cached_tokens),
        sum(output_tokens), sum(cost_nanos)
    FROM request_log WHERE status <> 200 GROUP BY 1, 2, 3, 4, 5, 6, 7;

-- The other filters find their hours by the sums above; an address may be one of very many.
CREATE INDEX request_log_ip ON request_log (ip, ended_at);

-- Channels by the minute, each attempt counted where it was made; kept for a week.
CREATE TABLE channel_minutes (
    minute      timestamptz NOT NULL,
    channel_id  bigint NOT NULL,
    requests    bigint NOT NULL,
    errors      bigint NOT NULL,  -- attempts that failed
    ttft_counts integer[],
    PRIMARY KEY (channel_id, minute)
) WITH (fillfactor = 80);

-- What was booked on an account by month and kind: a statement adds up few rows. Written with the
-- entries themselves, whoever books them, so that it cannot say anything else than they do.
CREATE TABLE ledger_months (
    account_id   bigint NOT NULL REFERENCES accounts,
    month        date NOT NULL,  -- its first day, UTC
    kind         text NOT NULL,
    amount_nanos bigint NOT NULL,
    PRIMARY KEY (account_id, month, kind)
) WITH (fillfactor = 80);
INSERT INTO ledger_months
    SELECT account_id, date_trunc('month', created_at AT TIME ZONE 'UTC')::date, kind,
        sum(amount_nanos)::bigint
    FROM entries JOIN transfers ON transfers.id = transfer_id WHERE account_id > 0
    GROUP BY 1, 2, 3;

CREATE FUNCTION ledger_month_add() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    -- In the order of ids, as every writer of balances does.
    INSERT INTO ledger_months AS kept
        SELECT account_id, date_trunc('month', created_at AT TIME ZONE 'UTC')::date, kind,
            sum(amount_nanos)::bigint
        FROM booked JOIN transfers ON transfers.id = transfer_id WHERE account_id > 0
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (account_id, month, kind) DO UPDATE
        SET amount_nanos = kept.amount_nanos + excluded.amount_nanos;
    RETURN NULL;
END $$;
CREATE TRIGGER month AFTER INSERT ON entries REFERENCING NEW TABLE AS booked
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_month_add();
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION ledger_month_add() SET search_path = %I, pg_temp',
        current_schema());
END $$;
