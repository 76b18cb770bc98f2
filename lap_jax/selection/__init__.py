"""Which weights stay: how many, what competes with what, and the search for the largest."""
