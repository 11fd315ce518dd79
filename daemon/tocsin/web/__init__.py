"""What is served over HTTP: probes, metrics, API, hooks, pages."""
