-- What the console's filters need at ten million calls, at little cost to who writes them.

-- What was not answered with 200 is rare: whoever looks for it together with anything else (429 of
-- one address) reads this part of the log alone. A good call writes nothing here.
CREATE INDEX request_log_failed ON request_log (account_id, ended_at) WHERE status <> 200;

-- In which hours a rare model was called. A row enters it once, when its hour and group begin; sums
-- that are added to later touch no index.
CREATE INDEX usage_hours_model ON usage_hours (account_id, model, hour);

-- Who an order is paid through, '' = as its holder and the operator agree, or a shop's callback;
-- that provider's own number of the payment page, and where the page is. closed_at: nobody will pay
-- it any more, so nobody need look after it; money that comes after all is credited all the same.
ALTER TABLE orders
    ADD COLUMN provider text NOT NULL DEFAULT '',
    ADD COLUMN checkout text NOT NULL DEFAULT '',
    ADD COLUMN checkout_url text NOT NULL DEFAULT '',
    ADD COLUMN closed_at timestamptz;
