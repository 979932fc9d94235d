"""The graph: flows, stages, tasks, and the tables that tasks return. No Dagster, no database."""
