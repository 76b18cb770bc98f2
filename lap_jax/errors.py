"""The one exception that lap_jax raises for input it cannot use."""


class PruningError(ValueError):
    """Bad input: the message names the layer or argument, what was found and how to mend it."""
