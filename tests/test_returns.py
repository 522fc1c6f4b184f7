"""Returns and advantages against slow sums in NumPy (property 7)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.returns import explained_variance, gae, n_step, rewards_to_go

PATTERNS, T = 1_000, 24
over_patterns = jax.jit(jax.vmap(gae))


class Rows(NamedTuple):
    """Trajectories [PATTERNS, T] in the order of `gae`'s arguments, γ and λ one for each."""

    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray
    terminated: np.ndarray
    ended: np.ndarray
    gamma: np.ndarray
    lambda_: np.ndarray

    @property
    def delta(self) -> np.ndarray:
        """The TD errors, in float64."""
        bootstrap = np.where(self.terminated, 0, self.next_value.astype(float))
        return self.reward + self.gamma[:, None].astype(float) * bootstrap - self.value


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Random ends of every kind: terminated, truncated, both at once, several in a row, none."""
    random = np.random.default_rng(0)
    reward, value, next_value = random.normal(size=(3, PATTERNS, T)).astype(np.float32)
    often = random.uniform(0, 0.5, (2, PATTERNS, 1))
    terminated, truncated = random.uniform(size=(2, PATTERNS, T)) < often
    gamma, lambda_ = random.uniform(size=(2, PATTERNS)).astype(np.float32)
    return Rows(reward, value, next_value, terminated, terminated | truncated, gamma, lambda_)


def double_sum(x: np.ndarray, ended: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Σₖ factorᵏ xₜ₊ₖ up to the end of the episode of row t, each sum on its own."""
    result = np.zeros(x.shape)
    for i in range(PATTERNS):
        for t in range(T):
            for k in range(T - t):
                result[i, t] += float(factor[i]) ** k * x[i, t + k]
                if ended[i, t + k]:
                    break
    return result


def assert_close(actual: jax.Array, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_gae_is_the_double_sum(rows):
    factor = rows.gamma.astype(float) * rows.lambda_
    assert_close(over_patterns(*rows), double_sum(rows.delta, rows.ended, factor))


def test_rewards_to_go_is_the_double_sum(rows):
    actual = jax.vmap(rewards_to_go)(rows.reward, rows.ended, rows.gamma)
    assert_close(actual, double_sum(rows.reward, rows.ended, rows.gamma))


def test_rewards_to_go_are_undiscounted_by_default():
    actual = rewards_to_go(jnp.asarray([1.0, 2, 4, 8]), jnp.asarray([False, True, False, False]))
    np.testing.assert_array_equal(actual, [3, 2, 12, 8])


def test_lambda_0_is_the_td_error(rows):
    assert_close(over_patterns(*rows._replace(lambda_=np.zeros_like(rows.lambda_))), rows.delta)


def test_lambda_1_is_the_monte_carlo_return_minus_the_value(rows):
    """The return bootstraps from V(s′) where the episode was cut, by a limit or by the rollout's end."""
    last = rows.ended | (np.arange(T) == T - 1)
    # Inside an episode V(s′) is the next row's V(s), so that the sum of TD errors telescopes.
    next_value = np.where(last, rows.next_value, np.roll(rows.value, -1, axis=1))
    bootstrap = np.where(last & ~rows.terminated, rows.gamma[:, None].astype(float) * next_value, 0)
    returns = double_sum(rows.reward + bootstrap, rows.ended, rows.gamma)
    actual = over_patterns(*rows._replace(next_value=next_value, lambda_=np.ones_like(rows.lambda_)))
    assert_close(actual, returns - rows.value)


ZEROS, NEVER, MIDDLE = jnp.zeros(3), jnp.zeros(3, bool), jnp.asarray([False, True, False])


@pytest.mark.parametrize(
    ("terminated", "expected"), [(MIDDLE, 0.0), (NEVER, 0.5)], ids=["terminated", "truncated"]
)
def test_only_a_termination_stops_the_bootstrap(terminated, expected):
    advantage = gae(ZEROS, ZEROS, jnp.asarray([0.0, 1, 0]), terminated, MIDDLE, 0.5, 1.0)
    np.testing.assert_array_equal(advantage, [expected / 2, expected, 0])


@pytest.mark.parametrize("terminated", [MIDDLE, NEVER], ids=["terminated", "truncated"])
def test_either_end_cuts_the_trace(terminated):
    advantage = gae(jnp.asarray([0.0, 0, 1]), ZEROS, ZEROS, terminated, MIDDLE, 0.5, 1.0)
    np.testing.assert_array_equal(advantage, [0, 0, 1])


@pytest.mark.parametrize("lambda_", [0.0, 0.9, 1.0])
def test_reward_1_under_a_time_limit_is_worth_1_over_1_minus_gamma(lambda_):
    """V ← the mean of the targets Â + V, for a single state whose episodes are cut every ten steps."""
    gamma, ended = 0.9, jnp.arange(35) % 10 == 9
    no = jnp.zeros_like(ended)

    def improve(_, v):
        values = jnp.full(ended.shape, v)
        return jnp.mean(gae(jnp.ones(ended.shape), values, values, no, ended, gamma, lambda_) + values)

    assert jax.lax.fori_loop(0, 300, improve, jnp.zeros(())) == pytest.approx(1 / (1 - gamma), rel=1e-5)


@pytest.mark.parametrize("valid", [[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
def test_n_step_stops_at_the_first_row_that_is_not_valid(valid):
    reward, gamma = [3.0, 5.0, 7.0, 11.0], 0.5
    k = (*valid, 0).index(0)
    total, count = n_step(jnp.asarray(reward), jnp.asarray(valid, bool), gamma)
    assert (total, count) == (sum(gamma**i * reward[i] for i in range(k)), k)


def test_n_step_without_a_discount_factor_is_the_first_reward():
    assert n_step(jnp.asarray([3.0, 5.0]), jnp.ones(2, bool), 0.0)[0] == 3


@pytest.mark.parametrize(("value", "expected"), [([1, 2, 4], 1), ([5, 5, 5], 0), ([2, 4, 8], 0), ([3, 4, 6], 1)])
def test_explained_variance(value, expected):
    value, target = jnp.asarray(value, float), jnp.asarray([1.0, 2, 4])
    for scale in (1, 0.01):
        assert explained_variance(scale * value, scale * target) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 123.4])
def test_explained_variance_is_nan_where_no_target_varies(constant):
    """0.1 is not a multiple of a power of two: the mean of a hundred of them rounds."""
    assert jnp.isnan(explained_variance(jnp.arange(100.0), jnp.full(100, constant)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("function", ["gae", "rewards_to_go", "n_step"])
def test_gradients_are_finite(function, gamma):
    calls = {
        "gae": lambda x, g: gae(x, x**2, x**3, MIDDLE, MIDDLE, g, g),
        "rewards_to_go": lambda x, g: rewards_to_go(x, MIDDLE, g),
        "n_step": lambda x, g: n_step(x, ~MIDDLE, g)[0],
    }
    gradient = jax.grad(lambda x, g: jnp.sum(calls[function](x, g)), argnums=(0, 1))(
        jnp.arange(3.0), jnp.asarray(gamma)
    )
    assert all(np.isfinite(g).all() for g in gradient)
