-- Prices that will hold from a moment on: announced now, put into force by the control process then.
CREATE TABLE price_changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model      text NOT NULL CHECK (model <> ''),
    input                     bigint NOT NULL CHECK (input >= 0),
    output                    bigint NOT NULL CHECK (output >= 0),
    cached_input              bigint NOT NULL CHECK (cached_input >= 0),
    cache_write               bigint NOT NULL CHECK (cache_write >= 0),
    per_call                  bigint NOT NULL CHECK (per_call >= 0),
    model_multiplier_ppm      bigint NOT NULL CHECK (model_multiplier_ppm >= 0),
    completion_multiplier_ppm bigint CHECK (completion_multiplier_ppm >= 0),
    effective_at timestamptz NOT NULL,
    actor        text NOT NULL CHECK (actor <> ''),
    created_at   timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    price_id     bigint REFERENCES prices  -- the row that it became; NULL: still to come
);
CREATE INDEX price_changes_due ON price_changes (effective_at)
    WHERE price_id IS NULL AND cancelled_at IS NULL;
