-- Calls that a channel of another dialect served, and channels that have one of OpenAI's two ways of
-- asking only. Expand only: code of before goes on beside it.

-- From what dialect into what, as openai>anthropic; '' = not translated: most calls.
ALTER TABLE request_log ADD COLUMN translated text NOT NULL DEFAULT '';

ALTER TABLE channels ADD COLUMN openai_api text NOT NULL DEFAULT 'both'
    CHECK (openai_api IN ('both', 'chat', 'responses'));
