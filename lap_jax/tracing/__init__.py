"""A graph, and norms on data, from a model's own program."""
