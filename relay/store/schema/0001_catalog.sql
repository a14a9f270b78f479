-- The catalog: who may do what, where, for what.
--
-- Every row carries the generation at which it was last written. A writer takes the one row of
-- catalog_generation first (in the statement trigger) and holds it until it commits, so commits
-- happen in the order of their generations: whoever has read generation G has seen every row <= G,
-- and "generation > G" finds exactly what is new.

CREATE TABLE catalog_generation (
    single     boolean PRIMARY KEY DEFAULT true CHECK (single),
    generation bigint NOT NULL
);
INSERT INTO catalog_generation (generation) VALUES (1);

CREATE FUNCTION catalog_bump() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bumped bigint;
BEGIN
    UPDATE catalog_generation SET generation = generation + 1 RETURNING generation INTO bumped;
    PERFORM pg_notify('relay_catalog', bumped::text);
    RETURN NULL;
END $$;

CREATE FUNCTION catalog_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT generation INTO STRICT NEW.generation FROM catalog_generation;
    RETURN NEW;
END $$;

-- The request log names these rows by id, and followers learn of a deletion only by a stamped row.
CREATE FUNCTION catalog_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0];
END $$;

-- Limits: 0 = none. tpm: tokens a minute. rpm: requests a minute. concurrency: calls at once.

CREATE TABLE channels (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL CHECK (name <> ''),
    base_url       text NOT NULL,
    api_key_sealed bytea NOT NULL DEFAULT '',  -- see relay/store/vault.py; empty = no credential
    protocol       text NOT NULL DEFAULT 'openai'
                   CHECK (protocol IN ('openai', 'anthropic', 'gemini')),
    models         jsonb NOT NULL CHECK (jsonb_typeof(models) = 'object'),  -- public -> upstream
    weight         integer NOT NULL DEFAULT 1 CHECK (weight > 0),
    tier           integer NOT NULL DEFAULT 0 CHECK (tier >= 0),
    tpm            bigint NOT NULL DEFAULT 0 CHECK (tpm >= 0),
    rpm            bigint NOT NULL DEFAULT 0 CHECK (rpm >= 0),
    concurrency    integer NOT NULL DEFAULT 0 CHECK (concurrency >= 0),
    resume         text NOT NULL DEFAULT 'none' CHECK (resume IN
                   ('none', 'trailing', 'prefix', 'partial', 'continue_final_message')),
    abort_bills    text NOT NULL DEFAULT 'partial' CHECK (abort_bills IN ('partial', 'full')),
    include_usage  boolean NOT NULL DEFAULT true,
    drained        boolean NOT NULL DEFAULT false,  -- new calls go elsewhere
    evicted        boolean NOT NULL DEFAULT false CHECK (drained OR NOT evicted),  -- running ones too
    created_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    generation     bigint NOT NULL
);
CREATE UNIQUE INDEX channels_name ON channels (name) WHERE deleted_at IS NULL;

CREATE TABLE lines (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    kind        text NOT NULL DEFAULT 'standard'
                CHECK (kind IN ('standard', 'training', 'dedicated')),
    tpm         bigint NOT NULL DEFAULT 0 CHECK (tpm >= 0),
    rpm         bigint NOT NULL DEFAULT 0 CHECK (rpm >= 0),
    concurrency integer NOT NULL DEFAULT 0 CHECK (concurrency >= 0),
    splice      boolean NOT NULL DEFAULT false,
    hedge_ms    integer NOT NULL DEFAULT 0 CHECK (hedge_ms >= 0),  -- 0 = never
    created_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    generation  bigint NOT NULL
);
CREATE UNIQUE INDEX lines_name ON lines (name) WHERE deleted_at IS NULL;

CREATE TABLE line_channels (
    line_id    bigint NOT NULL REFERENCES lines,
    position   integer NOT NULL CHECK (position >= 0),
    channel_id bigint NOT NULL REFERENCES channels,
    generation bigint NOT NULL,
    PRIMARY KEY (line_id, position),
    UNIQUE (line_id, channel_id)
);

CREATE TABLE groups (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text NOT NULL CHECK (name <> ''),
    multiplier_ppm bigint NOT NULL DEFAULT 1000000 CHECK (multiplier_ppm >= 0),
    created_at     timestamptz NOT NULL DEFAULT now(),
    deleted_at     timestamptz,
    generation     bigint NOT NULL
);
CREATE UNIQUE INDEX groups_name ON groups (name) WHERE deleted_at IS NULL;

CREATE TABLE group_lines (  -- position 0 is the group's default line
    group_id   bigint NOT NULL REFERENCES groups,
    position   integer NOT NULL CHECK (position >= 0),
    line_id    bigint NOT NULL REFERENCES lines,
    generation bigint NOT NULL,
    PRIMARY KEY (group_id, position),
    UNIQUE (group_id, line_id)
);

CREATE TABLE accounts (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text NOT NULL CHECK (name <> ''),
    group_id           bigint NOT NULL REFERENCES groups,
    credit_limit_nanos bigint NOT NULL DEFAULT 0 CHECK (credit_limit_nanos >= 0),
    tpm                bigint NOT NULL DEFAULT 0 CHECK (tpm >= 0),
    rpm                bigint NOT NULL DEFAULT 0 CHECK (rpm >= 0),
    concurrency        integer NOT NULL DEFAULT 0 CHECK (concurrency >= 0),
    disabled           boolean NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL DEFAULT now(),
    deleted_at         timestamptz,
    generation         bigint NOT NULL
);
CREATE UNIQUE INDEX accounts_name ON accounts (name) WHERE deleted_at IS NULL;
CREATE INDEX accounts_generation ON accounts (generation);

-- The key itself is stored nowhere: digest = HMAC-SHA256(pepper, key), unique among deleted keys
-- too, so that a revoked key cannot come back. fillfactor leaves room for the shipper's updates of
-- spent_nanos, spent_at and last_used_at to stay on their page (HOT).
CREATE TABLE keys (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id   bigint NOT NULL REFERENCES accounts,
    name         text NOT NULL CHECK (name <> ''),
    digest       bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    pepper_id    text NOT NULL,
    prefix       text NOT NULL,
    last4        text NOT NULL,
    disabled     boolean NOT NULL DEFAULT false,
    expires_at   timestamptz,
    models       text[] CHECK (models <> '{}'),      -- NULL = any
    networks     cidr[] CHECK (networks <> '{}'),    -- NULL = any
    quota_nanos  bigint CHECK (quota_nanos >= 0),    -- NULL = no bound
    spent_nanos  bigint NOT NULL DEFAULT 0 CHECK (spent_nanos >= 0),
    spent_at     timestamptz,                        -- when spent_nanos was last written
    last_used_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    generation   bigint NOT NULL
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX keys_name ON keys (account_id, name) WHERE deleted_at IS NULL;
CREATE INDEX keys_generation ON keys (generation);
CREATE INDEX keys_quota ON keys (id) WHERE quota_nanos IS NOT NULL AND deleted_at IS NULL;

-- Prices in nano-USD per 1M tokens, per_call in nano-USD a call. A row is never edited: the newest
-- row of a model is in force, and one with withdrawn = true says that the model has no price.
CREATE TABLE prices (
    id                        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model                     text NOT NULL CHECK (model <> ''),
    input                     bigint NOT NULL CHECK (input >= 0),
    output                    bigint NOT NULL CHECK (output >= 0),
    cached_input              bigint NOT NULL CHECK (cached_input >= 0),
    cache_write               bigint NOT NULL DEFAULT 0 CHECK (cache_write >= 0),
    per_call                  bigint NOT NULL DEFAULT 0 CHECK (per_call >= 0),
    model_multiplier_ppm      bigint NOT NULL DEFAULT 1000000 CHECK (model_multiplier_ppm >= 0),
    completion_multiplier_ppm bigint CHECK (completion_multiplier_ppm >= 0),
    detail                    jsonb,  -- model.PriceDetail; NULL = the plain case
    withdrawn                 boolean NOT NULL DEFAULT false,
    created_at                timestamptz NOT NULL DEFAULT now(),
    generation                bigint NOT NULL
);
CREATE INDEX prices_in_force ON prices (model, id DESC);

-- A statement that changes the catalog bumps the generation before its rows are stamped with it.

DO $$
DECLARE
    named text;
BEGIN
    FOREACH named IN ARRAY ARRAY[
        'channels', 'lines', 'line_channels', 'groups', 'group_lines', 'accounts', 'prices'
    ] LOOP
        EXECUTE format('CREATE TRIGGER a_bump BEFORE INSERT OR UPDATE OR DELETE ON %I
            FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump()', named);
        EXECUTE format('CREATE TRIGGER b_stamp BEFORE INSERT OR UPDATE ON %I
            FOR EACH ROW EXECUTE FUNCTION catalog_stamp()', named);
    END LOOP;
    FOREACH named IN ARRAY ARRAY['channels', 'lines', 'groups', 'accounts', 'keys'] LOOP
        EXECUTE format('CREATE TRIGGER a_keep BEFORE DELETE OR TRUNCATE ON %I FOR EACH STATEMENT
            EXECUTE FUNCTION catalog_refuse(''set deleted_at instead'')', named);
    END LOOP;
END $$;

-- Booking what a key spent is not a change of the catalog: it happens at every shipped batch.
CREATE TRIGGER a_bump
    BEFORE INSERT OR UPDATE OF name, disabled, expires_at, models, networks, quota_nanos, deleted_at
    ON keys FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump();
CREATE TRIGGER b_stamp
    BEFORE INSERT OR UPDATE OF name, disabled, expires_at, models, networks, quota_nanos, deleted_at
    ON keys FOR EACH ROW EXECUTE FUNCTION catalog_stamp();

-- Followers ask every second which keys spent something of late, whatever the calls' own times are.
CREATE FUNCTION keys_stamp_spent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.spent_at = clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER b_spent BEFORE UPDATE OF spent_nanos ON keys
    FOR EACH ROW EXECUTE FUNCTION keys_stamp_spent();

CREATE TRIGGER a_keep_digest BEFORE UPDATE OF account_id, digest, pepper_id ON keys FOR EACH STATEMENT
    EXECUTE FUNCTION catalog_refuse('a key never changes: create another one');
CREATE TRIGGER a_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON prices FOR EACH STATEMENT
    EXECUTE FUNCTION catalog_refuse('a price never changes: insert a new row');
