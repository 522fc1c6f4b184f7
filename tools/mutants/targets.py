"""Which functions get every operator mutant, and the tests that must notice each."""

from tools.mutants.mutant import Mutant
from tools.mutants.operators import generate

PG = "tests/algorithms/test_pg.py"
EQUATIONS = "tests/algorithms/test_equations.py -k"

# File, functions ("*": all at its top level), tests.
TARGETS = [
    ("returns.py", ("rewards_to_go", "gae", "n_step", "explained_variance"), "tests/test_returns.py"),
    ("returns.py", ("first_episode",), PG),
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
    ("priorities.py", ("Priorities.put", "Priorities.draw", "importance"), "tests/test_priorities.py"),
    (
        "critics.py",
        ("least", "td_target", "where_next_action", "fit"),
        f"{EQUATIONS} 'critics or td_target or next_action'",
    ),
    ("trajectories.py", ("importance_ratios", "weighted_return", "effective_sample_size"), PG),
    ("algorithms/pg.py", ("*",), PG),
    (
        "algorithms/dqn.py",
        ("td_target", "td_error", "epsilon_greedy", "DQN.epsilon"),
        f"{EQUATIONS} 'dqn or epsilon'",
    ),
    (
        "algorithms/ppo.py",
        ("clipped_surrogate", "value_loss", "PPO.objective"),
        f"tests/algorithms/test_ppo.py {EQUATIONS} 'objective or clip'",
    ),
    ("algorithms/ac.py", ("*",), f"{EQUATIONS} 'soft or score or temperature or entropy_targets'"),
    ("algorithms/naf.py", ("*",), f"{EQUATIONS} 'quadratic or root'"),
    ("algorithms/trpo.py", ("improvement", "adapted_penalty"), f"{EQUATIONS} 'improvement or penalty'"),
]


def operators() -> list[Mutant]:
    """All operator mutants of all targets."""
    return [mutant for file, names, tests in TARGETS for mutant in generate(file, names, tests)]
