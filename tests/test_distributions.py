"""Distributions against SciPy, exact sums and quadrature (property 5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ridgeline.distributions import (
    Categorical,
    DiagonalGaussian,
    Distribution,
    Product,
    TanhGaussian,
    log_prob,
    noise_of_each,
)

COUNT = 5
fixed = settings(deadline=None, derandomize=True, max_examples=100)
finite = st.floats(-20, 20, width=32)
logits = arrays(np.float32, COUNT, elements=finite)
pairs = arrays(np.float32, 2, elements=finite)
log_stds = arrays(np.float32, 2, elements=st.floats(-2, 2, width=32))

entropy_of = jax.jit(lambda p: p.entropy())
kl_of = jax.jit(lambda p, q: p.kl(q))
log_probs_of = jax.jit(jax.vmap(log_prob, in_axes=(None, 0)))
scores_of = jax.jit(jax.vmap(jax.grad(log_prob), in_axes=(None, 0)))
samples_of = jax.jit(lambda p: jax.vmap(p.sample)(jax.random.split(jax.random.key(7), 20_000)))

MASKED = Categorical(jnp.asarray([0.5, -1e9, 1.0, -1e9, 0.0]))
SKEWED = Categorical(jnp.asarray([0.0, 1.0, -2.0, 0.5, 3.0]))
PRODUCT = Product((Categorical(jnp.asarray([0.0, 1.0])), Categorical(jnp.asarray([0.3, -1.0, 0.9]))))
TWIN = Product((Categorical(jnp.asarray([0.2, 0.1])), Categorical(jnp.asarray([2.0, 1.0, 0.5]))))
GAUSSIAN = DiagonalGaussian(jnp.asarray([0.3, -1.0]), jnp.asarray([-0.5, 0.4]))
WIDER = DiagonalGaussian(jnp.asarray([0.1, 0.2]), jnp.asarray([0.3, 0.7]))
ALL = [(SKEWED, Categorical(jnp.zeros(COUNT))), (PRODUCT, TWIN), (GAUSSIAN, WIDER)]
each = pytest.mark.parametrize("p", [p for p, _ in ALL], ids=lambda p: type(p).__name__)
each_pair = pytest.mark.parametrize(("p", "q"), ALL, ids=lambda p: type(p).__name__)


@pytest.mark.parametrize("p", [*(p for p, _ in ALL), TanhGaussian(GAUSSIAN.mean, GAUSSIAN.log_std, (True, False))])
def test_noise_is_made_of_shapes_alone(p):
    """So that it can be drawn before the parameters are known."""
    key, others = jax.random.key(3), jax.tree.map(lambda x: x * 2 + 1, p)
    for same in (others, jax.eval_shape(lambda: p)):
        for one, other in zip(jax.tree.leaves(p.noise(key)), jax.tree.leaves(same.noise(key)), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(p.draw(p.noise(key)), p.sample(key))


@pytest.mark.parametrize("p", [p for p, _ in ALL])
def test_noise_of_many_is_drawn_in_one_go(p):
    """Row by row of two batches as random as one draw, and no two alike."""
    first, second = noise_of_each(lambda _: p, jax.random.key(0), jnp.zeros((3_000, 2)), jnp.zeros((2_000, 2)))
    for batch, rows in ((first, 3_000), (second, 2_000)):
        drawn = np.asarray(jax.vmap(p.draw)(batch)).reshape(rows, -1)
        alone = np.asarray(jax.vmap(p.sample)(jax.random.split(jax.random.key(1), 5_000))).reshape(5_000, -1)
        error = np.std(alone, 0) * np.sqrt(1 / rows + 1 / 5_000)
        assert (np.abs(np.mean(drawn, 0) - np.mean(alone, 0)) < 5 * error).all()
        assert np.std(drawn, 0) == pytest.approx(np.std(alone, 0), rel=0.1)
    for x in map(np.concatenate, zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)):
        assert len(np.unique(x)) > 0.99 * x.size


def support(p: Distribution) -> tuple[jax.Array, np.ndarray | float]:
    """Actions and their weights: Σ w f(a) is the sum or the integral of f over all actions."""
    match p:
        case Categorical():
            return jnp.arange(p.logits.size), 1.0
        case Product():
            axes = [np.arange(part.logits.size) for part in p.parts]
            return jnp.asarray(np.stack(np.meshgrid(*axes), -1).reshape(-1, len(axes))), 1.0
        case DiagonalGaussian():  # equal steps to 9 σ: exact to rounding for such smooth functions
            z, step = np.linspace(-9, 9, 181, retstep=True)
            grid = np.stack(np.meshgrid(z, z), -1).reshape(-1, 2)
            std = np.exp(p.log_std)
            return jnp.asarray(np.asarray(p.mean) + grid * std, jnp.float32), float(np.prod(std) * step**2)
    raise TypeError(p)


def expected(p: Distribution, values: jax.Array) -> np.ndarray:
    """E_p of a function with these values on p's support."""
    actions, weight = support(p)
    density = np.exp(np.asarray(log_probs_of(p, actions), float)) * weight
    return np.tensordot(density, np.asarray(values, float), 1)


@each
def test_probabilities_add_up_to_1(p):
    assert expected(p, np.ones(len(support(p)[0]))) == pytest.approx(1, abs=1e-6)


@each
def test_the_expected_score_is_0(p):
    for leaf in jax.tree.leaves(scores_of(p, support(p)[0])):
        np.testing.assert_allclose(expected(p, leaf), 0, atol=2e-6)


@each
def test_entropy_is_the_expected_surprise(p):
    assert p.entropy() == pytest.approx(-expected(p, log_probs_of(p, support(p)[0])), rel=1e-5)


@each_pair
def test_kl_is_the_expected_log_ratio(p, q):
    actions = support(p)[0]
    ratio = log_probs_of(p, actions) - log_probs_of(q, actions)
    assert p.kl(q) == pytest.approx(expected(p, ratio), rel=1e-5)


@each
def test_the_mode_is_the_most_probable_action(p):
    actions = support(p)[0]
    best = jnp.argmax(log_probs_of(p, actions))
    np.testing.assert_allclose(p.mode(), actions[best], atol=1e-6)


@each
def test_one_key_is_one_sample(p):
    a, b, c = (p.sample(jax.random.key(k)) for k in (1, 1, 2))
    assert a.dtype == p.mode().dtype
    np.testing.assert_array_equal(a, b)
    assert isinstance(p, Categorical | Product) or not np.array_equal(a, c)


@each_pair
def test_kl_of_another_family_is_refused(p, q):
    stranger = GAUSSIAN if isinstance(p, Categorical) else SKEWED
    with pytest.raises(AssertionError):
        p.kl(stranger)


def test_kl_of_fewer_entries_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        PRODUCT.kl(Product(TWIN.parts[:1]))


@fixed
@given(logits)
def test_categorical_is_scipys_softmax(x):
    p, reference = Categorical(jnp.asarray(x)), scipy.special.log_softmax(x.astype(float))
    np.testing.assert_allclose(log_probs_of(p, jnp.arange(COUNT)), reference, rtol=1e-5, atol=1e-5)
    assert entropy_of(p) == pytest.approx(scipy.stats.entropy(np.exp(reference)), rel=1e-4, abs=1e-5)


@fixed
@given(logits, logits)
def test_kl_of_categoricals_is_scipys(x, y):
    reference = scipy.stats.entropy(*(np.exp(scipy.special.log_softmax(z.astype(float))) for z in (x, y)))
    assert kl_of(Categorical(jnp.asarray(x)), Categorical(jnp.asarray(y))) == pytest.approx(
        reference, rel=1e-4, abs=1e-5
    )


@fixed
@given(pairs, log_stds, pairs)
def test_gaussian_is_scipys_normal(mean, log_std, action):
    p, normal = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(log_std)), scipy.stats.norm(mean, np.exp(log_std))
    assert log_prob(p, jnp.asarray(action)) == pytest.approx(normal.logpdf(action).sum(), rel=1e-5, abs=1e-5)
    assert entropy_of(p) == pytest.approx(normal.entropy().sum(), rel=1e-5, abs=1e-5)


@fixed
@given(pairs, log_stds, pairs, log_stds)
def test_kl_is_never_negative_and_0_with_itself(x, s, y, t):
    p, q = (DiagonalGaussian(jnp.asarray(m), jnp.asarray(v)) for m, v in ((x, s), (y, t)))
    a, b = (Product((Categorical(jnp.asarray(m)), Categorical(jnp.asarray(v)))) for m, v in ((x, s), (y, t)))
    assert kl_of(p, p) == kl_of(a, a) == 0
    assert kl_of(p, q) > -1e-5
    assert kl_of(a, b) > -1e-5


def test_a_masked_action_has_probability_exactly_0():
    probability = jnp.exp(log_probs_of(MASKED, jnp.arange(COUNT)))
    np.testing.assert_array_equal(probability == 0, [False, True, False, True, False])
    assert not np.isin(samples_of(MASKED), [1, 3]).any()


def test_masks_leave_entropy_and_kl_those_of_the_allowed_actions():
    allowed = Categorical(jnp.asarray([0.5, 1.0, 0.0]))
    other = Categorical(MASKED.logits + jnp.asarray([1.0, 0, 0, 0, 0]))
    np.testing.assert_allclose(MASKED.entropy(), allowed.entropy(), rtol=1e-6)
    kl = allowed.kl(Categorical(jnp.asarray([1.5, 1.0, 0.0])))
    np.testing.assert_allclose(MASKED.kl(other), kl, rtol=1e-5)


@pytest.mark.parametrize(
    "p",
    [
        MASKED,
        Categorical(jnp.asarray([1e30, -1e30, 0, 1e30, -1e9])),
        Categorical(jnp.full(COUNT, -1e9)),
        DiagonalGaussian(jnp.asarray([1e8, -1e8]), jnp.asarray([-20.0, 2.0])),
    ],
    ids=["masked", "huge", "all masked", "gaussian"],
)
def test_extremes_and_their_gradients_are_finite(p):
    everything = lambda p: log_prob(p, p.mode()) + p.entropy() + p.kl(p) + jnp.sum(p.sample(jax.random.key(0)))  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.value_and_grad(everything)(p)))


def test_the_first_of_equally_probable_actions_is_the_mode():
    assert Categorical(jnp.asarray([0.0, 1.0, 1.0])).mode() == 1


def test_categorical_samples_follow_the_distribution():
    observed = np.bincount(samples_of(SKEWED), minlength=COUNT)
    wanted = scipy.special.softmax(np.asarray(SKEWED.logits, float)) * observed.sum()
    assert scipy.stats.chisquare(observed, wanted).pvalue > 1e-3


def test_product_samples_follow_the_joint_distribution():
    """Entries drawn with one key would each be right, and depend on each other."""
    samples = np.asarray(samples_of(PRODUCT))
    observed = np.histogram2d(*samples.T, bins=(2, 3))[0]
    wanted = np.outer(*(scipy.special.softmax(np.asarray(part.logits, float)) for part in PRODUCT.parts))
    assert scipy.stats.chisquare(observed.ravel(), wanted.ravel() * len(samples)).pvalue > 1e-3


def test_gaussian_samples_follow_the_distribution():
    z = (np.asarray(samples_of(GAUSSIAN), float) - np.asarray(GAUSSIAN.mean)) / np.exp(GAUSSIAN.log_std)
    assert min(scipy.stats.kstest(column, "norm").pvalue for column in z.T) > 1e-3
    assert scipy.stats.pearsonr(*z.T).pvalue > 1e-3


@pytest.mark.parametrize("action", [1.0, -1.0, 1 - 1e-9, 0.3])
def test_a_squashed_action_at_its_bound_is_as_likely_as_one_at_1e_6_from_it(action):
    """The entry that is not bounded is a plain Gaussian, beyond 1 too."""
    with jax.enable_x64(True):
        mean, std = np.array([0.3, -1.0]), np.exp([-0.5, 0.4])
        found = log_prob(TanhGaussian(jnp.array(mean), jnp.log(std), (True, False)), jnp.array([action, 2.5]))
        inside = np.clip(action, -(1 - 1e-6), 1 - 1e-6)
        squashed = scipy.stats.norm(mean[0], std[0]).logpdf(np.arctanh(inside)) - np.log1p(-(inside**2))
        assert found == pytest.approx(squashed + scipy.stats.norm(mean[1], std[1]).logpdf(2.5), rel=1e-8)
