"""Rules: events and time → alerts. Pure: (state, event or tick, now) → (state, alert change); no I/O, no clock."""
