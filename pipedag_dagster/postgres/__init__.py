"""How we talk to PostgreSQL: connections, locks, roles, the embedded server."""
