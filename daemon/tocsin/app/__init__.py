"""Settings, composition root, the decide loop, life cycle, reload."""
