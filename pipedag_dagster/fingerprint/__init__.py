"""What code and values *are*: hashes that are equal in every process, and differ when a result could."""
