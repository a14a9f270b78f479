-- What the console's filters need where few of an address' calls fit: its failures, and what took
-- longer than five minutes. Without them pages of tens of thousands of calls are read for a handful.
-- Both are rare, so both indexes are small, and a good call of usual length writes nothing here.
CREATE INDEX request_log_failed_ip ON request_log (ip, ended_at) WHERE status <> 200;
CREATE INDEX request_log_slow ON request_log (account_id, ended_at) WHERE total_us >= 300000000;
