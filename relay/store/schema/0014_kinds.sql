-- What a channel is, how it is reached, and a catalog that keeps itself.

ALTER TABLE channels
    ADD COLUMN kind           text NOT NULL DEFAULT '',       -- wire.kinds.presets
    ADD COLUMN reach          jsonb NOT NULL DEFAULT '{}',    -- relay.reach.Reach
    -- `models` is what is sold: what was written by name, and models_found, which these patterns
    -- chose out of the upstream's list.
    ADD COLUMN model_patterns text[] NOT NULL DEFAULT '{}',
    ADD COLUMN models_found   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(models_found) = 'object'),
    ADD COLUMN models_auto    boolean NOT NULL DEFAULT false, -- changes of the list are taken over
    ADD COLUMN listed_at      timestamptz,
    ADD COLUMN cost_ppm       bigint CHECK (cost_ppm >= 0),   -- of the official price; NULL = not known
    -- A further credential of a channel is a row of its own, with health and quota of its own.
    ADD COLUMN key_of         bigint REFERENCES channels,
    -- What was minted of the credential, and until when it is good.
    ADD COLUMN token_sealed     bytea NOT NULL DEFAULT '',
    ADD COLUMN token_expires_at timestamptz;

-- What is known of models whoever sells them: facts that lists of models tell, official prices.
CREATE TABLE models (
    name              text PRIMARY KEY CHECK (name <> ''),
    context_tokens    bigint NOT NULL DEFAULT 0 CHECK (context_tokens >= 0),  -- 0 = not known
    output_tokens     bigint NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    input_modalities  text[] NOT NULL DEFAULT '{}',
    output_modalities text[] NOT NULL DEFAULT '{}',
    official          jsonb,  -- model.Price; NULL = no list names it
    official_source   text NOT NULL DEFAULT '',
    official_at       timestamptz,
    generation        bigint NOT NULL
);
CREATE TRIGGER a_bump BEFORE INSERT OR UPDATE OR DELETE ON models
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump();
CREATE TRIGGER b_stamp BEFORE INSERT OR UPDATE ON models
    FOR EACH ROW EXECUTE FUNCTION catalog_stamp();
