"""The nouns: runs, events, alerts, notifications, labels, matchers. Frozen and pure; no I/O, no clock."""
