"""What the pytest plugin uses: a test for each stage, and instances that belong to one test."""
