"""Which functions get every operator mutant, and the tests that must notice each."""

from tools.mutants.mutant import Mutant
from tools.mutants.operators import generate

# File, functions ("*": all at its top level), tests.
TARGETS = [
    ("returns.py", ("rewards_to_go", "gae", "n_step", "explained_variance"), "tests/test_returns.py"),
    ("returns.py", ("first_episode",), "tests/algorithms/test_pg.py"),
    (
        "distributions.py",
        (
            "Categorical.log_prob",
            "Categorical.entropy",
            "Categorical.kl",
            "Categorical.mode",
            "Product.log_prob",
            "Product.entropy",
            "Product.kl",
            "DiagonalGaussian.sample",
            "DiagonalGaussian.log_prob",
            "DiagonalGaussian.entropy",
            "DiagonalGaussian.kl",
            "TanhGaussian.log_prob",
            "TanhGaussian.entropy",
            "TanhGaussian._squash",
            "TanhGaussian._log_density",
            "_log_slope",
        ),
        "tests/test_distributions.py",
    ),
    (
        "normalisation.py",
        (
            "Total.add",
            "Total.value",
            "Normaliser.fold",
            "Normaliser.__call__",
            "Normaliser.deviation",
            "RewardNormaliser.scale",
        ),
        "tests/test_normalisation.py",
    ),
    ("memory.py", ("Memory.add", "Memory.sample", "Memory.window"), "tests/test_memory.py"),
    ("optimisation.py", ("*",), "tests/test_optimisation.py"),
    ("algorithms/pg.py", ("*",), "tests/algorithms/test_pg.py"),
]


def operators() -> list[Mutant]:
    """All operator mutants of all targets."""
    return [mutant for file, names, tests in TARGETS for mutant in generate(file, names, tests)]
