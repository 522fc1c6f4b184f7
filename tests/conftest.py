"""Hostile settings: annotations are enforced, rank promotion raises, warnings are errors (pyproject)."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

install_import_hook("ridgeline", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")
