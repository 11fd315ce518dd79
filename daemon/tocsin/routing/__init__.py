"""Routing: events and alerts → notifications owed. Alertmanager's semantics; pure, no I/O, no clock."""
