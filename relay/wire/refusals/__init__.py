"""What an upstream says instead of an answer, and whose fault it is. Pure.

blame            Whose fault an upstream's refusal is: one table of status and words, the first row
                 that fits
fault_body       What an upstream says instead of an answer, read from any shape that a provider
                 gives it
identity         Our own identity, taken out of what a provider says to us before a client reads it
quota_headers    What an upstream's headers say about its own quota: when to come back, and whether
                 it is used up
upstream_errors  What an upstream's refusal means, as an error that can be answered and held against
                 somebody
"""
