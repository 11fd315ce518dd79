"""The baseline: an empty store gets the newest tables at once, so this revision does nothing; later ones follow it."""

revision = "0.2_0007"
down_revision = None
