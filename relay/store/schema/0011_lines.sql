-- Which lines a key and an account may use, beside what their group gives them.

-- Calls over such a line need a grant: `relay line grant --account A LINE`.
ALTER TABLE lines ADD COLUMN by_invitation boolean NOT NULL DEFAULT false;

-- Lines that the account was granted. Lines are never removed, so an id says enough.
ALTER TABLE accounts ADD COLUMN granted_line_ids bigint[] NOT NULL DEFAULT '{}';

-- The key's own choice, the default first. NULL: all that its account may use, in their order.
ALTER TABLE keys ADD COLUMN line_ids bigint[] CHECK (line_ids <> '{}');

CREATE TRIGGER a_bump_lines BEFORE UPDATE OF line_ids
    ON keys FOR EACH STATEMENT EXECUTE FUNCTION catalog_bump();
CREATE TRIGGER b_stamp_lines BEFORE UPDATE OF line_ids
    ON keys FOR EACH ROW EXECUTE FUNCTION catalog_stamp();

-- The ids of lines by their names, in their order; NULL for NULL.
CREATE FUNCTION line_ids_of(names text[]) RETURNS bigint[] LANGUAGE sql STABLE AS $$
    SELECT array_agg(lines.id ORDER BY place)
    FROM unnest(names) WITH ORDINALITY AS wanted (name, place)
    JOIN lines ON lines.name = wanted.name AND lines.deleted_at IS NULL
$$;
