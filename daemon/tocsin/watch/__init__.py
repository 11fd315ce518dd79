"""DSS to events: sweep, discovery, cadence, poll, diff, details, backfill."""
