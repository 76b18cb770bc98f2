"""Smaller networks: what a masked model computes of nothing, or for nobody, is left out."""
