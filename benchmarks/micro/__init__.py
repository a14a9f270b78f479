"""Parts of the relay alone, without a load generator.

pure         the pure parts of a call
limits       what all limits together add to a call
rows         what a row of the request log costs
settlements  how many settlements a minute reach Postgres
"""
