"""What the plugin for pytest gives: tests of stages, and instances of their own for tests."""
