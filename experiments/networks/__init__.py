"""The networks, as Flax Linen modules.

All are called ``module.apply(variables, x, train)`` with ``x`` of shape ``[batch, h, w, channels]``
and return float32 logits ``[batch, classes]``. Parameters and running statistics are float32; the
layers but the last compute in the module's ``dtype``. A network with batch norms needs
``mutable=["batch_stats"]`` where ``train`` is True; ``train`` changes nothing in the others.
"""
