"""What a small instance copies from its source."""
