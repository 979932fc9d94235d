"""The Dagster side: stages as assets, instances as resources. With the command line, all that imports dagster."""
