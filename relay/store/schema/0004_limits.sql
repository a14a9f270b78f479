-- Limits beyond the plain numbers: of a key, of a model on a line, and how a line counts tokens.

ALTER TABLE lines
    -- public model -> {"tpm", "rpm", "concurrency"}: its part of the line; 0 or absent = none
    ADD COLUMN model_limits jsonb NOT NULL DEFAULT '{}'
        CHECK (jsonb_typeof(model_limits) = 'object'),
    -- What the line's limits do while Redis cannot be asked: live on a share, hold nobody back, or
    -- let nobody in.
    ADD COLUMN on_limiter_loss text NOT NULL DEFAULT 'share'
        CHECK (on_limiter_loss IN ('share', 'open', 'closed')),
    -- What a token of each class counts, in parts per million.
    ADD COLUMN input_weight_ppm bigint NOT NULL DEFAULT 1000000 CHECK (input_weight_ppm >= 0),
    ADD COLUMN cached_weight_ppm bigint NOT NULL DEFAULT 0 CHECK (cached_weight_ppm >= 0),
    ADD COLUMN output_weight_ppm bigint NOT NULL DEFAULT 1000000 CHECK (output_weight_ppm >= 0);

ALTER TABLE keys
    ADD COLUMN tpm bigint NOT NULL DEFAULT 0 CHECK (tpm >= 0),
    ADD COLUMN rpm bigint NOT NULL DEFAULT 0 CHECK (rpm >= 0),
    ADD COLUMN concurrency integer NOT NULL DEFAULT 0 CHECK (concurrency >= 0);

-- Booking what a key spent is still no change of the catalog; a changed limit is one.
DROP TRIGGER a_bump ON keys;
DROP TRIGGER b_stamp ON keys;
CREATE TRIGGER a_bump
    BEFORE INSERT OR UPDATE OF name, disabled, expires_at, models, networks, quota_nanos, deleted_at,
        tpm, rpm, concurrency
    ON keys FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump();
CREATE TRIGGER b_stamp
    BEFORE INSERT OR UPDATE OF name, disabled, expires_at, models, networks, quota_nanos, deleted_at,
        tpm, rpm, concurrency
    ON keys FOR EACH ROW EXECUTE FUNCTION catalog_stamp();
