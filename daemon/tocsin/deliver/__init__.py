"""Notifications to the world: rendering, channels, retry, dead letters."""
