"""One instance that follows the source, and one that changes only when somebody wants it to."""
