"""The arithmetic of limits: buckets, leases, estimates. Pure."""
