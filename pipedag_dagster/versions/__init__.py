"""What is visible: writing physical tables, committing stage versions, going back, cleaning up."""
