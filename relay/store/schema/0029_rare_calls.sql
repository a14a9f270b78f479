-- What the console's filters need where few of very many calls fit, at little cost to who writes.

-- Failures of one address, and what took longer than five minutes: without these, pages of tens of
-- thousands of calls are read for a handful. Both are rare, so both indexes are small, and a good
-- call of usual length writes nothing here.
CREATE INDEX request_log_failed_ip ON request_log (ip, ended_at) WHERE status <> 200;
CREATE INDEX request_log_slow ON request_log (account_id, ended_at) WHERE total_us >= 300000000;

-- In which hours a seldom used key or line was called. A row enters these once, when its hour and
-- group begin; sums that are added to later touch no index.
CREATE INDEX usage_hours_key ON usage_hours (account_id, key_id, hour);
CREATE INDEX usage_hours_line ON usage_hours (account_id, line_id, hour);
