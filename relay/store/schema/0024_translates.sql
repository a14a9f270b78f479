-- Whether a line asks channels of other dialects, where none of the client's is well. Expand only: code
-- of before goes on beside it.
ALTER TABLE lines ADD COLUMN translates boolean NOT NULL DEFAULT true;
