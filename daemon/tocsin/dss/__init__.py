"""The scenario API of Dataiku DSS, async; a library in its own right that needs nothing else of Tocsin but kit."""
