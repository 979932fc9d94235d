"""The smallest pipeline that has everything: two input tables, two stages, three instances."""
