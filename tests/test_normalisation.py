"""Running statistics against float64 NumPy over all the data (property 21)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.normalisation import Normaliser, ObservationNormaliser, RewardNormaliser, Total
from ridgeline.types import ACTION_MASK, ArraySpec

LARGEST = 2**24  # from here on float32 cannot count by ones
fold = jax.jit(Normaliser.fold)
scale = jax.jit(RewardNormaliser.scale)


def exact(total: Total) -> np.ndarray:
    """Both words in float64."""
    return np.asarray(total.high, float) + np.asarray(total.low, float)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.sampled_from([1, 2, 7, 64]), min_size=1, max_size=20),
    st.sampled_from([0.0, 1.0, -300.0, 1e5]),
    st.sampled_from([1e-4, 1e-2, 1.0, 1e3]),
)
def test_statistics_are_those_of_all_the_data(sizes, offset, spread):
    random = np.random.default_rng(len(sizes))
    batches = [np.asarray(offset + spread * random.normal(size=(b, 2)), np.float32) for b in sizes]
    normaliser = Normaliser.create((2,))
    for batch in batches:
        normaliser = fold(normaliser, batch)
    data = np.concatenate(batches).astype(float)
    rounding = 3e-7 * (abs(offset) + spread)  # of one float32 of the data's size
    assert normaliser.count.value == len(data)
    np.testing.assert_allclose(normaliser.mean.value, data.mean(0), rtol=0, atol=rounding)
    np.testing.assert_allclose(
        normaliser.variance.value, data.var(0), rtol=2e-5, atol=rounding * (rounding + spread)
    )


def test_the_order_of_batches_does_not_matter():
    batches = np.random.default_rng(0).normal(3, 2, (50, 64, 2)).astype(np.float32)
    run = jax.jit(lambda x: jax.lax.scan(lambda n, b: (n.fold(b), None), Normaliser.create((2,)), x)[0])
    for one, other in zip(jax.tree.leaves(run(batches)), jax.tree.leaves(run(batches[::-1])), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_total_counts_past_2_to_the_24():
    """Far enough past it for the low word to be full, too, if it carried nothing over."""
    more = 2 * LARGEST + 1001
    plain = np.float32(LARGEST)
    count = jax.jit(lambda t: jax.lax.fori_loop(0, more, lambda _, t: t.add(jnp.ones(())), t))
    assert plain + np.float32(1) == plain
    assert exact(count(Total(jnp.asarray(plain), jnp.zeros(())))) == LARGEST + more


@pytest.mark.parametrize(("first", "then"), [(1.0, 1e8), (1e8, 1.0), (-1e8, 3.0), (3.0, -1e8)])
def test_a_total_loses_nothing_whichever_word_is_larger(first, then):
    total = Total(jnp.asarray(first), jnp.zeros(())).add(jnp.asarray(then)).add(jnp.asarray(-1e8))
    assert exact(total) == first + then - 1e8


def test_single_samples_still_move_the_mean_after_2_to_the_24():
    """Each moves it by 3e-8, which a float32 near 1 cannot hold."""
    count, more, x = float(LARGEST), 20_000, 1.5
    word = lambda value: Total(jnp.asarray(value), jnp.zeros(()))  # noqa: E731
    start = Normaliser(word(count), word(1.0), word(1.0))

    @jax.jit
    def run(normaliser):
        step = lambda _, pair: (pair[0].fold(jnp.full(1, x)), pair[1] + (x - pair[1]) / count)  # noqa: E731
        return jax.lax.fori_loop(0, more, step, (normaliser, jnp.ones(())))

    end, plain = run(start)
    share = more / (count + more)
    assert plain == 1
    assert exact(end.count) == count + more
    assert exact(end.mean) == pytest.approx(1 + share * (x - 1), abs=1e-8)
    assert exact(end.variance) == pytest.approx((1 - share) * (1 + share * (x - 1) ** 2), abs=1e-7)


def test_a_total_is_the_sum_of_both_words():
    assert Total(jnp.float32(3), jnp.float32(0.5)).value == 3.5


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_entries_that_do_not_count_are_as_if_they_were_not_there(shape):
    random = np.random.default_rng(0)
    chosen, some = Normaliser.create(shape), Normaliser.create(shape)
    for counts in (np.array([True, False, True, True]), np.array([False, False, True, False])):
        x = random.normal(size=(4, *shape)).astype(np.float32)
        chosen, some = chosen.fold(jnp.asarray(x[counts])), some.fold(jnp.asarray(x), jnp.asarray(counts))
    for one, other in ((chosen.count, some.count), (chosen.mean, some.mean), (chosen.variance, some.variance)):
        np.testing.assert_allclose(one.value, other.value, rtol=1e-5)


def test_after_one_number_the_deviation_is_that_of_epsilon():
    assert Normaliser.create(()).fold(jnp.full(1, 3.0)).deviation == pytest.approx(1e-4, rel=1e-3)


def test_before_any_data_it_is_the_identity():
    x = jnp.asarray([0.3, -2.0, 9.9])
    np.testing.assert_array_equal(Normaliser.create((3,))(x), x)


def test_it_centres_scales_and_clips():
    data = np.random.default_rng(1).normal(5, 3, (1_000, 1)).astype(np.float32)
    normaliser = fold(Normaliser.create((1,)), data)
    result = jax.vmap(normaliser)(data)
    np.testing.assert_allclose([result.mean(), result.std()], [0, 1], atol=1e-5)
    assert normaliser(jnp.asarray([1e6])) == 10
    assert normaliser(jnp.asarray([-1e6])) == -10
    assert normaliser(jnp.asarray([1e6]), clip=2.0) == 2


def test_data_that_never_vary_become_0():
    constant = np.full((7, 1), 0.1, np.float32)
    np.testing.assert_allclose(fold(Normaliser.create((1,)), constant)(jnp.asarray([0.1])), 0, atol=1e-3)


PARTS = {
    "position": ArraySpec((2,)),
    "camera": ArraySpec((4, 4, 3), "uint8"),
    "gear": ArraySpec((), "int32", (5,)),
    ACTION_MASK: ArraySpec((3,)),
}


def observations(seed: int, count: int = 50) -> dict[str, jax.Array]:
    """A batch of them."""
    random = np.random.default_rng(seed)
    draw = lambda part: random.integers(1, 3, (count, *part.shape)) + 10  # noqa: E731
    return {name: jnp.asarray(draw(part), part.dtype) for name, part in PARTS.items()}


def test_only_the_float_arrays_of_a_dictionary_are_normalised():
    seen, new = observations(0), jax.tree.map(lambda x: x[0], observations(1))
    normaliser = ObservationNormaliser.create(tuple(PARTS.items())).fold(seen)
    result = normaliser(new)
    x = np.asarray(seen["position"], float)
    np.testing.assert_allclose(result["position"], (new["position"] - x.mean(0)) / x.std(0), rtol=1e-4)
    for name in PARTS.keys() - {"position"}:
        assert result[name] is new[name]


def test_a_lone_array_is_normalised():
    x = np.random.default_rng(2).normal(4, 2, (100, 3)).astype(np.float32)
    normaliser = ObservationNormaliser.create(ArraySpec((3,))).fold(jnp.asarray(x))
    np.testing.assert_allclose(jax.vmap(normaliser)(x), (x - x.mean(0)) / x.std(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["camera", "gear"])
def test_a_lone_image_or_category_passes_through(name):
    x = observations(3)[name]
    normaliser = ObservationNormaliser.create(PARTS[name]).fold(x)
    assert normaliser(x[0]).dtype == PARTS[name].dtype
    np.testing.assert_array_equal(normaliser(x[0]), x[0])


def test_leading_axes_of_what_is_folded_in_are_free():
    rollout = jax.tree.map(lambda x: x.reshape(5, 10, *x.shape[1:]), observations(4))
    empty = ObservationNormaliser.create(tuple(PARTS.items()))
    jax.tree.map(np.testing.assert_array_equal, empty.fold(rollout), empty.fold(observations(4)))


def test_one_that_is_not_wanted_stays_the_identity():
    seen = observations(5)
    normaliser = ObservationNormaliser.create(tuple(PARTS.items()), wanted=False).fold(seen)
    assert not jax.tree.leaves(normaliser)
    assert all(x is seen[name] for name, x in normaliser(seen).items())


def slow_scale(rollouts, gamma):
    """Rewards over the deviation of every discounted return so far, environment by environment."""
    returns, running = [], np.zeros(rollouts[0][0].shape[1])
    for reward, ended in rollouts:
        for t in range(len(reward)):
            running = gamma * running + reward[t].astype(float)
            returns.extend(running)
            running = np.where(ended[t], 0, running)
        yield np.clip(reward / np.sqrt(np.var(returns) + 1e-8), -10, 10)


def test_rewards_are_divided_by_the_deviation_of_the_return():
    """Episodes go on from one rollout to the next; the last rollout holds a reward to be clipped."""
    random = np.random.default_rng(4)
    rollouts = [
        (random.normal(2, 3, (9, 4)).astype(np.float32), random.uniform(size=(9, 4)) < 0.2) for _ in range(6)
    ]
    rollouts[-1][0][3, 2] = -500
    normaliser = RewardNormaliser.create(4)
    for (reward, ended), expected in zip(rollouts, slow_scale(rollouts, 0.9), strict=True):
        normaliser, actual = scale(normaliser, reward, ended, 0.9)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert actual[3, 2] == -10


@pytest.mark.parametrize("sign", [-1, 1])
def test_scaled_rewards_end_at_ten(sign):
    """One reward among four hundred is twenty deviations."""
    reward = jnp.zeros((400, 1)).at[7].set(sign)
    _, scaled = RewardNormaliser.create(1).scale(reward, jnp.ones((400, 1), bool), 0.0)
    assert scaled[7, 0] == 10 * sign
