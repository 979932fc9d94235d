"""The command `pipedag-dagster`."""
