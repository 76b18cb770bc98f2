"""What a weight is worth: kernels, norms, what neighbours make of them, scores."""
