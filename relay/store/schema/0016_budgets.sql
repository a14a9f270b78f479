-- Budgets that end: what a key or an account may use in a day, week or month by the calendar of a
-- zone. Written as in relay.toml ("50 usd/month@Europe/Berlin"), see relay/billing/budget.py.

ALTER TABLE keys ADD COLUMN budgets text[] NOT NULL DEFAULT '{}';
ALTER TABLE accounts ADD COLUMN budgets text[] NOT NULL DEFAULT '{}';

CREATE TRIGGER a_bump_budgets BEFORE UPDATE OF budgets
    ON keys FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump();
CREATE TRIGGER b_stamp_budgets BEFORE UPDATE OF budgets
    ON keys FOR EACH ROW EXECUTE FUNCTION catalog_stamp();

-- One window of one budget. `name` says all of it, and is what windows are locked in the order of.
-- Amounts are nano-USD, tokens or requests, as `measure` says.
CREATE TABLE budget_windows (
    name      text COLLATE "C" PRIMARY KEY,
    scope     text NOT NULL CHECK (scope IN ('account', 'key')),
    owner_id  bigint NOT NULL,
    measure   text NOT NULL CHECK (measure IN ('usd', 'tokens', 'requests')),
    starts_at timestamptz NOT NULL,
    ends_at   timestamptz NOT NULL CHECK (ends_at > starts_at),
    amount    bigint NOT NULL CHECK (amount >= 0),         -- what may be used
    used      bigint NOT NULL DEFAULT 0 CHECK (used >= 0),  -- what ended calls have used
    held      bigint NOT NULL DEFAULT 0 CHECK (held >= 0),  -- the sum of open leases
    told_at   timestamptz                                   -- when somebody was told it runs low
) WITH (fillfactor = 70);
CREATE INDEX budget_windows_owner ON budget_windows (scope, owner_id);
CREATE INDEX budget_windows_low ON budget_windows (ends_at) WHERE told_at IS NULL;

-- What a worker may use of a window without asking, as credit_leases. `owner`: of credit_owners.
CREATE TABLE budget_leases (
    window_name text COLLATE "C" NOT NULL REFERENCES budget_windows ON DELETE CASCADE,
    owner       text NOT NULL,
    open        bigint NOT NULL CHECK (open >= 0),
    granted     bigint NOT NULL,  -- all that was ever leased less all that was given back
    PRIMARY KEY (window_name, owner)
) WITH (fillfactor = 70);
CREATE INDEX budget_leases_owner ON budget_leases (owner);
