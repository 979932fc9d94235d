"""One instance that follows the source, and one that stays as it is until somebody wants it otherwise."""
