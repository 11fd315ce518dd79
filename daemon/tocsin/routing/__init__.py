"""Routing: events and alerts → notifications. Alertmanager's semantics; pure, no I/O, no clock."""
