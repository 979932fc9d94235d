"""One stage of one instance: what must run, what it reads and returns, running it. No Dagster here."""
