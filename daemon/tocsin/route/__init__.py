"""Events and alerts to notifications owed: reporters, tree, groups, silences, intervals. Pure."""
