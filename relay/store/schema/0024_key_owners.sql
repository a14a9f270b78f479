-- Whose key it is: who made it, and is told when it is used from an unfamiliar address. NULL: the
-- account's.
ALTER TABLE keys ADD COLUMN user_id bigint REFERENCES users;
