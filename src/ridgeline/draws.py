"""Whole numbers at random, as one word of 32 bits each."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt

_ROUNDS = 32


def uniform_below(key: PRNGKeyArray, count: int, n: Int[Array, ""]) -> Int[Array, "count"]:
    """So many of 0 … n − 1, each equally often, to within n / 2³² of it (Lemire 2019, section 4)."""
    return below(jax.random.bits(key, (count,), jnp.uint32), n.astype(jnp.uint32)).astype(jnp.int32)


def below(words: UInt[Array, "*rows"], n: UInt[Array, ""]) -> UInt[Array, "*rows"]:
    """⌊w n / 2³²⌋ of each word w."""
    # By halves of 16 bits: jax.lax.mulhi does not compile where seeds are shared out over devices (JAX 0.12).
    high, low, n_high, n_low = words >> 16, words & 0xFFFF, n >> 16, n & 0xFFFF
    middle = high * n_low + (low * n_low >> 16)
    return high * n_high + (middle >> 16) + (low * n_high + (middle & 0xFFFF) >> 16)


def shuffled(key: PRNGKeyArray, count: int) -> Int[Array, "count"]:
    """0 … n − 1 in random order: the swap-or-not shuffle (Hoang, Morris & Rogaway 2012, figure 1), 32 rounds.

    In each round x and k − x mod n, for a random k, change places if a coin that belongs to both says so. All of
    it goes entry by entry: to sort as many random words takes five to ten times as long.
    """

    def one_round(x: UInt[Array, "count"], words: UInt[Array, "2"]) -> tuple[UInt[Array, "count"], None]:
        n = jnp.uint32(count)
        k, secret = below(words[0], n), words[1]
        partner = jnp.where(x <= k, k - x, k + n - x)
        return jnp.where(_coin(jnp.maximum(x, partner) ^ secret), partner, x), None

    start = jnp.arange(count, dtype=jnp.uint32)
    return jax.lax.scan(one_round, start, jax.random.bits(key, (_ROUNDS, 2), jnp.uint32))[0].astype(jnp.int32)


def _coin(x: UInt[Array, "n"]) -> Bool[Array, "n"]:
    """One bit of each number, by Wellons' hash of 32 bits ("lowbias32", 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * jnp.uint32(0x846CA68B) >= jnp.uint32(1 << 31)
