"""An emulated DSS that speaks the same wire; for demo, development and tests. Shares no code with the client."""
