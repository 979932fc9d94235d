"""The instances of a pipeline, read from YAML: every mistake with file and line."""
