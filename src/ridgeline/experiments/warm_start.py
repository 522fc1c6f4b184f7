"""Training that starts from a saved policy: its parameters in the states of a runner before the first step.

Which leaves of a state are the policy's, `algorithm.policy(state)` tells: it returns those very arrays. Its copies
(static networks) are the parts of the state that are built alike and hold the same numbers before the first step.
Everything else of the state (critics, optimisers, memories) stays as it was begun.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ridgeline.errors import UsageError
from ridgeline.experiments.policy import Policy, leaf_name, load
from ridgeline.training.runner import Runner
from ridgeline.types import Algorithm, EnvSpec


@dataclasses.dataclass(frozen=True)
class Origin:
    """The policy that training starts from, its file if it has one, and the SHA-256 of that, or of its arrays."""

    policy: Policy
    path: str | None
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """What `config.json` says of it."""
        return {"path": self.path, "sha256": self.sha256}


def origin(policy: Policy | str | Path, algorithm: Algorithm[Any, Any], spec: EnvSpec) -> Origin:
    """Read the policy, given itself or by its file, and check that it fits.

    Raises: `FileError` where the file is damaged; `UsageError` where it is of another algorithm, other spaces or
    another architecture.
    """
    path = None if isinstance(policy, Policy) else Path(policy)
    sha = hashlib.sha256()
    if isinstance(policy, Policy):
        for leaf in jax.tree.leaves(policy.parameters):
            sha.update(np.ascontiguousarray(leaf).tobytes())
    else:
        # A custom encoder cannot be read from a file; that of the run is then meant.
        custom = getattr(algorithm, "encoder", None) is not None
        policy = load(policy, algorithm if custom else None)
        with open(policy.source, "rb") as file:
            sha = hashlib.file_digest(file, "sha256")
    _check(policy, algorithm, spec)
    return Origin(policy, str(path) if path else None, sha.hexdigest())


def _check(policy: Policy, algorithm: Algorithm[Any, Any], spec: EnvSpec) -> None:
    theirs, ours = (type(a).__name__.lower() for a in (policy.algorithm, algorithm))
    if type(policy.algorithm) is not type(algorithm):
        raise UsageError(f"{policy.source} is a policy of {theirs}, and {ours} is to be trained: choose either")
    if (policy.spec.observation, policy.spec.action) != (spec.observation, spec.action):
        raise UsageError(f"{policy.source} is a policy for {policy.spec.id}: the spaces of {spec.id} differ")
    wanted = jax.eval_shape(lambda a: a.policy(a.init(jax.random.key(0), spec)), algorithm)
    here, there = _shapes(wanted), _shapes(policy.parameters)
    remedy = "train with the hyper-parameters of the policy"
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            found, expected = there.get(name, "missing"), here.get(name, "missing")
            raise UsageError(f"{policy.source}: {name} is {found} there and {expected} in this run: {remedy}")
    structures: list[Any] = [jax.tree.structure(tree) for tree in (wanted, policy.parameters)]
    if structures[0] != structures[1]:
        raise UsageError(f"{policy.source}: its activation or layer norm is not that of this run: {remedy}")


def _shapes(tree: PyTree[Any]) -> dict[str, str]:
    return {leaf_name(at): f"{x.dtype}{list(x.shape)}" for at, x in jax.tree_util.tree_leaves_with_path(tree)}


def begin_from(runner: Runner, policy: Policy) -> None:
    """Put the policy into every seed of a runner that has taken no step."""
    runner.change(lambda states: states_from(policy, runner.algorithm, states))


def states_from[State](policy: Policy, algorithm: Algorithm[State, Any], states: State) -> State:
    """States [S, ...] before the first step, with the policy's parameters in the policy's place and its copies'.

    Every other leaf is returned as it is; the replaced ones share no memory.
    """
    acting = algorithm.policy(states)
    given = dict(zip(map(id, jax.tree.leaves(acting)), jax.tree.leaves(policy.parameters), strict=True))
    for part in _parts(acting):
        structure, values = jax.tree.structure(part), jax.tree.leaves(part)
        # Zeros are no sign of kinship: so are a fresh optimiser's moments.
        if not any(np.ptp(np.asarray(x, float)) > 0 for x in values if x.size):
            continue
        for copy in _alike(states, structure):
            leaves = jax.tree.leaves(copy)
            if all(a.shape == b.shape and bool((a == b).all()) for a, b in zip(leaves, values, strict=True)):
                given |= {id(leaf): given[id(own)] for leaf, own in zip(leaves, values, strict=True)}

    def place(leaf: Any) -> Any:
        if id(leaf) not in given:
            return leaf
        return jax.device_put(np.array(np.broadcast_to(given[id(leaf)], leaf.shape)), leaf.sharding)

    return jax.tree.map(place, states)


def _parts(acting: Any) -> list[Any]:
    """The policy, and what it is made of on the first level."""
    children = jax.tree_util.tree_flatten(acting, is_leaf=lambda node: node is not acting)[0]
    return [acting, *children]


def _alike(tree: Any, structure: Any) -> Iterator[Any]:
    """The parts of a tree that are built in this way."""

    def matches(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return (node for node in jax.tree.leaves(tree, is_leaf=matches) if matches(node))
