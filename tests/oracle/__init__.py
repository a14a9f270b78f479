"""A second opinion on what a call costs, and the calls that it is asked about."""
