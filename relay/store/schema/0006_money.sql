-- Money that comes in by callbacks, accounts that are promoted, alerts on balances and addresses;
-- and what a role that serves may do.

-- pending: opened. paid: the shop has the money, which is kept whatever happens to us next.
-- credited: it is in the ledger. payment: the shop's own number of it, where it told one.
ALTER TABLE orders
    ADD COLUMN paid_at timestamptz,
    ADD COLUMN payment text NOT NULL DEFAULT '',
    DROP CONSTRAINT orders_status_check;
UPDATE orders SET paid_at = credited_at WHERE status = 'credited';
ALTER TABLE orders
    ADD CONSTRAINT orders_status_check CHECK (status IN ('pending', 'paid', 'credited')),
    ADD CONSTRAINT orders_paid_check CHECK ((status = 'pending') = (paid_at IS NULL));
CREATE INDEX orders_paid ON orders (paid_at) WHERE status = 'paid';

-- An order goes forward only, and what it is worth never changes once it is opened.
CREATE FUNCTION orders_keep() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    steps constant text[] := ARRAY['pending', 'paid', 'credited'];
BEGIN
    IF array_position(steps, NEW.status) < array_position(steps, OLD.status) THEN
        RAISE EXCEPTION 'an order does not go back from % to %', OLD.status, NEW.status;
    END IF;
    IF (OLD.order_no, OLD.account_id, OLD.currency, OLD.amount_nanos, OLD.paid_nanos,
        OLD.bonus_nanos) IS DISTINCT FROM (NEW.order_no, NEW.account_id, NEW.currency,
        NEW.amount_nanos, NEW.paid_nanos, NEW.bonus_nanos) THEN
        RAISE EXCEPTION 'the terms of an order never change';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION orders_keep();

-- A code is told from others by its number; the code itself is known to nobody here.
ALTER TABLE redemption_codes ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY UNIQUE;

-- Who became an enterprise, and why: once in an account's life. What a person does with the
-- account's group afterwards stands.
CREATE TABLE promotions (
    account_id    bigint PRIMARY KEY REFERENCES accounts,
    from_group_id bigint NOT NULL REFERENCES groups,
    to_group_id   bigint NOT NULL REFERENCES groups,
    reason        text NOT NULL CHECK (reason <> ''),
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON promotions FOR EACH STATEMENT
    EXECUTE FUNCTION catalog_refuse('a promotion has happened');

-- Below this balance its operator is told, once until it is above again. NULL = never.
ALTER TABLE accounts ADD COLUMN low_balance_nanos bigint CHECK (low_balance_nanos > 0);
CREATE INDEX accounts_low_balance ON accounts (id) WHERE low_balance_nanos IS NOT NULL;

-- Accounts below their threshold: a row is a claim, so that one of many hosts tells of it.
CREATE TABLE low_balances (
    account_id bigint PRIMARY KEY REFERENCES accounts,
    since      timestamptz NOT NULL DEFAULT now()
);

-- Addresses are looked at once, soon after their first call; those of old have been.
ALTER TABLE key_addresses ADD COLUMN judged boolean NOT NULL DEFAULT true;
ALTER TABLE key_addresses ALTER COLUMN judged SET DEFAULT false;
CREATE INDEX key_addresses_new ON key_addresses (first_seen) WHERE NOT judged;

-- Partitions belong to the owner; a role that serves has them kept by these two, within bounds: no
-- table but these three, and never the proof of charges of the last 400 days.
CREATE FUNCTION partitions_prepare(parent text, days_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF days_ahead NOT BETWEEN 0 AND 60 THEN
        RAISE EXCEPTION 'not 0 to 60 days ahead';
    END IF;
    CASE parent
        WHEN 'request_log' THEN
            RETURN day_partitions_prepare(parent, 'ended_at', days_ahead);
        WHEN 'usage_minutes' THEN
            RETURN day_partitions_prepare(parent, 'minute', days_ahead);
        WHEN 'settlements' THEN
            RETURN settlements_prepare(days_ahead);
    END CASE;
END $$;

CREATE FUNCTION partitions_drop(parent text, before date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    today constant date := (now() AT TIME ZONE 'UTC')::date;
    kept_days constant integer := CASE parent WHEN 'request_log' THEN 0 ELSE 399 END;
BEGIN
    IF before > today - kept_days THEN
        RAISE EXCEPTION 'partitions of % are kept for longer', parent;
    END IF;
    CASE parent
        WHEN 'request_log' THEN
            RETURN day_partitions_drop(parent, 'ended_at', before);
        WHEN 'usage_minutes' THEN
            RETURN day_partitions_drop(parent, 'minute', before);
        WHEN 'settlements' THEN
            RETURN settlements_drop(before);
    END CASE;
END $$;

-- The ledger's trigger writes balances as the owner, so a role that serves needs no right to: it
-- cannot change a balance by a trigger of its own either. These functions find our tables, never a
-- temporary one of the same name.
ALTER FUNCTION entries_book() SECURITY DEFINER;
ALTER FUNCTION balance_open() SECURITY DEFINER;
DO $$
DECLARE
    named text;
BEGIN
    FOREACH named IN ARRAY ARRAY[
        'entries_book()', 'balance_open()', 'partitions_prepare(text, integer)',
        'partitions_drop(text, date)'
    ] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', named, current_schema());
    END LOOP;
END $$;

-- Everything a role needs to serve, and nothing that rewrites the books: call it as the owner,
-- again after every migration. Partitions are reached through their tables.
CREATE FUNCTION relay_grant(role_name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    named text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role_name);
    FOR named IN SELECT relname FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
    LOOP
        EXECUTE format('REVOKE ALL ON %I FROM %I', named, role_name);
    END LOOP;
    FOR named IN SELECT relname FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I', named, role_name);
    END LOOP;
    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO %I', current_schema(), role_name);
    PERFORM ledger_grant(role_name);
    EXECUTE format('REVOKE INSERT, UPDATE ON balances FROM %I', role_name);
    EXECUTE format('GRANT UPDATE (held_nanos) ON balances TO %I', role_name);
    EXECUTE format('REVOKE UPDATE, DELETE ON prices, promotions, request_log FROM %I', role_name);
    EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON schema_migrations FROM %I', role_name);
END $$;
