-- The attempts that failed before a call was served or given up, or while it was: one object each,
-- {channel_id, outcome, status, asked_us, took_us}; see relay.call.Try. NULL = none failed.
ALTER TABLE request_log ADD COLUMN tries jsonb;
