"""One pipeline in three sizes."""
