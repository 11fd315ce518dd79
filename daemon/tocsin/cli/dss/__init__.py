"""The verbs that speak to DSS: scenarios, their runs, triggers and reporters."""
