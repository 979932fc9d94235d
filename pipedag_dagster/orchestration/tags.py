"""The tags of a run: its instance, and which stage versions it has read and written."""

INSTANCE_TAG = "pipedag/instance"
