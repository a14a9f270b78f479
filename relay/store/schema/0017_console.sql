-- What the console's filters need at ten million calls, at little cost to who writes them.

-- What was not answered with 200 is rare: whoever looks for it together with anything else (429 of
-- one address) reads this part of the log alone. A good call writes nothing here.
CREATE INDEX request_log_failed ON request_log (account_id, ended_at) WHERE status <> 200;

-- In which hours a rare model was called. A row enters it once, when its hour and group begin; sums
-- that are added to later touch no index.
CREATE INDEX usage_hours_model ON usage_hours (account_id, model, hour);

-- Who an order is paid through, '' = as its holder and the operator agree, or a shop's callback;
-- that provider's own number of the payment page, and where the page is.
ALTER TABLE orders
    ADD COLUMN provider text NOT NULL DEFAULT '',
    ADD COLUMN checkout text NOT NULL DEFAULT '',
    ADD COLUMN checkout_url text NOT NULL DEFAULT '';

-- Whose key it is: who made it, and is told when it is used from an unfamiliar address. NULL: the
-- account's.
ALTER TABLE keys ADD COLUMN user_id bigint REFERENCES users;

-- Who a user is at the identity provider; bound at the first sign-in there.
ALTER TABLE users
    ADD COLUMN oidc_issuer text,
    ADD COLUMN oidc_subject text,
    ADD CHECK ((oidc_issuer IS NULL) = (oidc_subject IS NULL));
CREATE UNIQUE INDEX users_oidc ON users (oidc_issuer, oidc_subject, (account_id IS NULL))
    WHERE oidc_subject IS NOT NULL;

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
