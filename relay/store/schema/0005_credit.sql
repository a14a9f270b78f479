-- Credit that workers spend without asking: who leases, and how much of it in all.

-- One life of a worker that leases. Its row is locked by each of its leases and by who closes it, so
-- that nothing can be leased for a worker that is gone, however late its last question arrives.
CREATE TABLE credit_owners (
    owner      text PRIMARY KEY CHECK (owner <> ''),
    expires_at timestamptz NOT NULL,  -- it must not spend after this without having renewed
    closed_at  timestamptz
);
INSERT INTO credit_owners (owner, expires_at)
    SELECT owner, max(expires_at) FROM credit_leases GROUP BY owner;

-- granted_nanos: all that was ever leased less all that was given back. A worker is told this sum
-- and not the single grant, so that an answer that got lost is made up for by the next one.
ALTER TABLE credit_leases DROP COLUMN expires_at,
    ADD COLUMN granted_nanos bigint NOT NULL DEFAULT 0;
UPDATE credit_leases SET granted_nanos = open_nanos;

-- As in 0003_ledger.sql, with the owners of leases.
CREATE OR REPLACE FUNCTION ledger_grant(role_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('REVOKE ALL ON transfers, entries, settlements, balances, credit_leases,
        credit_owners, orders, redemption_codes FROM %I', role_name);
    EXECUTE format('GRANT SELECT, INSERT ON transfers, entries, settlements TO %I', role_name);
    EXECUTE format('GRANT USAGE ON SEQUENCE transfers_id_seq TO %I', role_name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON balances, orders, redemption_codes TO %I',
        role_name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credit_leases, credit_owners TO %I',
        role_name);
END $$;
