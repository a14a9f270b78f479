-- How long a call over its limits may wait for them on a line. NULL: what its kind says.
ALTER TABLE lines ADD COLUMN wait_ms integer CHECK (wait_ms >= 0);
