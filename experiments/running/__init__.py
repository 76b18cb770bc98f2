"""Training, pruning and retraining many networks, in sweeps that can be killed."""
