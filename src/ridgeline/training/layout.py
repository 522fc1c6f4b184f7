"""Flat lists of arrays, and what they stand for: the calls of both runners take and return them."""

from functools import cache

from jax.tree_util import PyTreeDef

from ridgeline.types import EnvSpec


class Layout:
    """How the arrays of a call are put together, one object for each way, so that compiled code is found at once.

    Calls take and return lists of arrays: to flatten records of modules takes Python as long as to step a game.
    """

    def __init__(self, fixed: PyTreeDef, state: PyTreeDef, spec: EnvSpec) -> None:
        self.fixed, self.state, self.spec = fixed, state, spec
        self.policies: PyTreeDef | None = None  # once what gives them is traced
        self.summary: PyTreeDef | None = None  # as well


layout_of = cache(Layout)
