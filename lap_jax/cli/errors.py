"""The exception of the command line."""


class BadInput(Exception):
    """A flag, a file or a model is of no use; the message says which, why, and what would be."""
