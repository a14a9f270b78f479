"""The control process: admin API, shipper, metrics, upkeep."""
