"""What is said differently by each provider's API: one table for each dialect.

anthropic  Anthropic's dialect: its table, errors, pings, model lists, and what a head passes on
gemini     Gemini's dialect: its table, errors as bodies and as events, model lists, where its
           methods are
known      All dialects that are spoken, by the name that the catalog gives them
openai     OpenAI's dialect: its table, errors as bodies and as events, model lists
table      What is asked of a dialect: one table for each, so that nobody else has to know its name
"""
