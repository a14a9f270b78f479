-- What a line does with a call whose reasoning only a channel can read that is gone. Expand only:
-- code of before goes on beside it.
ALTER TABLE lines ADD COLUMN lost_state text NOT NULL DEFAULT 'refuse'
    CHECK (lost_state IN ('refuse', 'drop'));
