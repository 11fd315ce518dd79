"""Tests, and the witnesses that they share (``tests.fakedss``)."""
