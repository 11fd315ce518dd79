"""Small things without product words: clock, guarded tasks, durations, ids. Standard library only."""
