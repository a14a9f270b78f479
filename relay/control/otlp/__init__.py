"""Traces and metrics for a collector of OpenTelemetry, by choice, out of what is there anyway.

exporter  Sends spans and metrics to a collector, from threads of the control process
figures   What /metrics says, as OpenTelemetry's data model has it
spans     A span of each call, out of its row of the journal
"""
