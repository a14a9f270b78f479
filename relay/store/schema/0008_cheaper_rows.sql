-- Indexes of what every call writes to: fewer, and cheap to add to.

-- Read backward they give the same pages, newest first. Ascending, new rows come at the end of each
-- account's and each key's part, where Postgres fills pages instead of halving them.
DROP INDEX request_log_ended, request_log_account, request_log_key;
CREATE INDEX request_log_ended ON request_log (ended_at, request_id);
CREATE INDEX request_log_account ON request_log (account_id, ended_at);
CREATE INDEX request_log_key ON request_log (key_id, ended_at);

-- The audit reads all settlements anyway, and nobody else asks by transfer.
DROP INDEX settlements_transfer;
