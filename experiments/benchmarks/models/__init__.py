"""Which models of which libraries are read, and whether they are read right."""
