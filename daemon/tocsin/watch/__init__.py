"""DSS to events: sweep, discovery, cadence, look, diff, details, backfill."""
