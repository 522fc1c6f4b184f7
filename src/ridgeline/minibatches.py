"""Passes over a rollout in shuffled minibatches, as on-policy algorithms learn."""

from collections.abc import Callable

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from ridgeline.draws import shuffled


def epochs[Learner, Data: PyTree[Array], Out](
    key: PRNGKeyArray,
    learn: Callable[[Learner, Data], tuple[Learner, Out]],
    learner: Learner,
    data: Data,
    count: int,
    batch_size: int,
) -> tuple[Learner, Out]:
    """Pass `count` times over the rows of `data`, in minibatches cut from a fresh permutation each time.

    `batch_size` divides the number of rows. Outputs of `learn` are stacked [count, minibatches].
    """
    rows = jax.tree.leaves(data)[0].shape[0]

    def one_epoch(learner: Learner, key: PRNGKeyArray) -> tuple[Learner, Out]:
        if batch_size == rows:  # one minibatch of all: its order says nothing
            learner, out = learn(learner, data)
            return learner, jax.tree.map(lambda x: x[None], out)
        order = shuffled(key, rows)

        def one_batch(learner: Learner, index: Array) -> tuple[Learner, Out]:
            return learn(learner, jax.tree.map(lambda x: x[index], data))

        return jax.lax.scan(one_batch, learner, order.reshape(-1, batch_size))

    return jax.lax.scan(one_epoch, learner, jax.random.split(key, count))
