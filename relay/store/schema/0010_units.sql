-- Units beside tokens, quotas of keys that are held, orders that are set aside. Expand only: code of
-- before goes on beside it.

-- What a call used that is no token (relay.extras.Extras); NULL = nothing: most calls.
ALTER TABLE request_log ADD COLUMN extras jsonb;

-- What a line does with a field that costs more than its model has a price for.
ALTER TABLE lines ADD COLUMN unpriced text NOT NULL DEFAULT 'refuse'
    CHECK (unpriced IN ('refuse', 'strip'));

-- A paid order that could not be booked is set aside, with why, so that it holds up nobody else's.
-- An operator mends what is wrong and has it tried again.
ALTER TABLE orders
    ADD COLUMN set_aside_at timestamptz,
    ADD COLUMN fault text NOT NULL DEFAULT '';
