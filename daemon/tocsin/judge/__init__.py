"""Events and time to alerts: rules as pure functions."""
