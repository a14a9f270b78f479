-- A channel may hand back all of a partial answer before it goes on from it (llama.cpp).
ALTER TABLE channels DROP CONSTRAINT channels_resume_check;
ALTER TABLE channels ADD CONSTRAINT channels_resume_check CHECK (resume IN
    ('none', 'trailing', 'prefix', 'partial', 'continue_final_message', 'echo'));
