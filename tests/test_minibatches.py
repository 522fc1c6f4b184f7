"""Passes over the rows of a rollout: each row once an epoch, in a fresh order."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ridgeline.minibatches import epochs

ROWS, BATCH = 12, 3
DATA = {"row": jnp.arange(ROWS), "vector": 10.0 * jnp.arange(ROWS)[:, None]}


def note(learner, batch):
    """Counts its calls and gives back what it was shown."""
    return learner + 1, (learner, batch)


def passes(seed: int, count: int):
    """The learner after `count` epochs, and its outputs."""
    return epochs(jax.random.key(seed), note, jnp.zeros((), jnp.int32), DATA, count, BATCH)


def test_every_epoch_visits_every_row_once():
    _, (_, shown) = passes(0, 5)
    assert shown["row"].shape == (5, ROWS // BATCH, BATCH)
    for epoch in np.asarray(shown["row"]):
        np.testing.assert_array_equal(np.sort(epoch, axis=None), np.arange(ROWS))


def test_the_learner_goes_through_every_minibatch_in_turn():
    learner, (before, _) = passes(0, 5)
    assert learner == 5 * ROWS // BATCH
    np.testing.assert_array_equal(before, np.arange(learner).reshape(5, -1))


def test_the_parts_of_a_row_stay_together():
    _, (_, shown) = passes(0, 2)
    np.testing.assert_array_equal(shown["vector"][..., 0], 10 * shown["row"])


def test_the_order_is_fresh_for_each_epoch_and_each_key():
    orders = np.concatenate([np.asarray(passes(seed, 3)[1][1]["row"]).reshape(3, ROWS) for seed in (0, 1)])
    assert len(np.unique(orders, axis=0)) == 6
    np.testing.assert_array_equal(orders[:3], passes(0, 3)[1][1]["row"].reshape(3, ROWS))


def test_every_row_is_as_likely_in_every_place():
    shown = np.asarray(passes(2, 3_000)[1][1]["row"]).reshape(-1, ROWS)
    for place in shown.T:
        assert scipy.stats.chisquare(np.bincount(place, minlength=ROWS)).pvalue > 1e-4


def test_one_minibatch_may_hold_every_row():
    _, (_, shown) = epochs(jax.random.key(0), note, jnp.zeros((), jnp.int32), DATA, 2, ROWS)
    assert shown["row"].shape == (2, 1, ROWS)
