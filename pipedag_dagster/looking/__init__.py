"""Looking at what an instance has committed: tables, queries, versions."""
