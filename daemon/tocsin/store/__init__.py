"""Durable truth: the rows that join the stages. SQLite by default, PostgreSQL when one machine is too small."""
