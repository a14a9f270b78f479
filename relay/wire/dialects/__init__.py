"""What is said differently by each provider's API.

anthropic  Our own words in Anthropic's dialect: errors, pings, model lists, and what a head passes
           on
openai     Our own answers, in the dialect they are asked in: errors as bodies and as events, model
           lists
"""
