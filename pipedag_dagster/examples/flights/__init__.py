"""All 336,776 flights that left New York in 2013: who is late, and why. A pipeline as people write them."""
