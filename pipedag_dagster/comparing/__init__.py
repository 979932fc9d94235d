"""What differs between two instances, or between two versions of a stage: columns, rows, keys and values."""
