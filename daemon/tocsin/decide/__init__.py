"""Rows of events and time to alerts, groups and notifications: the stage between watch and deliver."""
