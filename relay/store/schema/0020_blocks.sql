-- Addresses and paths that are refused at the door, and those that are let in whatever a rule says.

CREATE TABLE blocks (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- its code is B-ID
    network    cidr,                                 -- NULL = any address
    path       text NOT NULL DEFAULT '' CHECK (path = '' OR path LIKE '/%'),  -- '' = any
    allow      boolean NOT NULL DEFAULT false,       -- let in: goes before all that refuse
    reason     text NOT NULL CHECK (reason <> ''),
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    removed_at timestamptz,
    removed_by text NOT NULL DEFAULT '',
    generation bigint NOT NULL,
    CHECK (network IS NOT NULL OR path <> '')
);
CREATE INDEX blocks_open ON blocks (id) WHERE removed_at IS NULL;

CREATE TRIGGER a_bump BEFORE INSERT OR UPDATE OR DELETE ON blocks
    FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump();
CREATE TRIGGER b_stamp BEFORE INSERT OR UPDATE ON blocks
    FOR EACH ROW EXECUTE FUNCTION catalog_stamp();
CREATE TRIGGER a_keep BEFORE DELETE OR TRUNCATE ON blocks FOR EACH STATEMENT
    EXECUTE FUNCTION catalog_refuse('set removed_at instead: codes are looked up later');
