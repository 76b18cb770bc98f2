"""The command line ``lap-jax``: checkpoints inspected, pruned, shrunk and compared.

It uses only what `lap_jax` offers to everybody, and nothing in the library imports it.
"""
