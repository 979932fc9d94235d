"""What the catalog of an instance holds, and the statements that read and write it."""
