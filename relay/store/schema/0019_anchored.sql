-- A channel may be asked to go on by repeating the last words of what it is given. Expand only.
ALTER TABLE channels DROP CONSTRAINT channels_resume_check;
ALTER TABLE channels ADD CONSTRAINT channels_resume_check CHECK (resume IN
    ('none', 'trailing', 'prefix', 'partial', 'continue_final_message', 'echo', 'anchored'));
