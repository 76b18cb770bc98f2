"""Lookahead pruning for JAX: masks that look at the neighbouring layers."""

from lap_jax.comparison import Comparison, ComparisonRow, compare
from lap_jax.errors import PruningError
from lap_jax.files.masks import load_masks, read_metadata, save_masks
from lap_jax.files.pruned import load_pruned, save_pruned
from lap_jax.gradual import PruneInTrainingState, final_params, masks_in, prune_in_training
from lap_jax.graph.chain import LayerSpec, chain
from lap_jax.graph.graph import Graph
from lap_jax.graph.layers import IDENTITY, Edge, Layer, Norm
from lap_jax.methods import METHODS, Method
from lap_jax.pruning import lookahead_masks, lookahead_scores, masks_from_scores
from lap_jax.recalibration import recalibrate
from lap_jax.repairing import repair
from lap_jax.report import Summary, SummaryRow, summarize
from lap_jax.retraining import KeepPrunedState, apply_masks, keep_pruned
from lap_jax.scoring.propagation import Measured
from lap_jax.selection.distributions import erk_sparsity, ideal_gas_sparsity, sparsity_keeping
from lap_jax.selection.scope import Scope
from lap_jax.selection.sparsity import cubic_schedule, iterative_schedule, paper_sparsity
from lap_jax.selection.top_k import keep_largest
from lap_jax.selection.widths import neuron_groups, sparsity_within
from lap_jax.shrinking.shrink import shrink
from lap_jax.shrinking.small import Small
from lap_jax.tracing.measure import measure
from lap_jax.tracing.trace import trace
from lap_jax.tracing.uses import uses
from lap_jax.version import VERSION

__version__ = VERSION

__all__ = [
    "IDENTITY",
    "METHODS",
    "Comparison",
    "ComparisonRow",
    "Edge",
    "Graph",
    "KeepPrunedState",
    "Layer",
    "LayerSpec",
    "Measured",
    "Method",
    "Norm",
    "PruneInTrainingState",
    "PruningError",
    "Scope",
    "Small",
    "Summary",
    "SummaryRow",
    "apply_masks",
    "chain",
    "compare",
    "cubic_schedule",
    "erk_sparsity",
    "final_params",
    "ideal_gas_sparsity",
    "iterative_schedule",
    "keep_largest",
    "keep_pruned",
    "load_masks",
    "load_pruned",
    "lookahead_masks",
    "lookahead_scores",
    "masks_from_scores",
    "masks_in",
    "measure",
    "neuron_groups",
    "paper_sparsity",
    "prune_in_training",
    "read_metadata",
    "recalibrate",
    "repair",
    "save_masks",
    "save_pruned",
    "shrink",
    "sparsity_keeping",
    "sparsity_within",
    "summarize",
    "trace",
    "uses",
]
