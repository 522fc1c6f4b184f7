"""Which functions get every operator mutant, and the tests that must notice each."""

from tools.mutants.mutant import Mutant
from tools.mutants.operators import generate

PG = "tests/algorithms/test_pg.py"
EQUATIONS = "tests/algorithms/test_equations.py -k"
DISTRIBUTIONS = "tests/test_distributions.py -k"
THEORY = "tests/theory/test_properties.py -k"

# File, functions ("*": all at its top level), tests.
TARGETS = [
    ("returns.py", ("rewards_to_go", "gae", "n_step", "explained_variance"), "tests/test_returns.py"),
    ("returns.py", ("first_episode",), PG),
    (
        "distributions.py",
        ("Categorical.log_prob", "Categorical.entropy", "Categorical.kl", "Categorical.mode"),
        f"{DISTRIBUTIONS} 'categorical or masked or masks or mode'",
    ),
    (
        "distributions.py",
        ("Product.log_prob", "Product.entropy", "Product.kl"),
        f"{DISTRIBUTIONS} 'add_up or expected or mode or refused'",
    ),
    (
        "distributions.py",
        (
            "DiagonalGaussian.draw",
            "DiagonalGaussian.log_prob",
            "DiagonalGaussian.entropy",
            "DiagonalGaussian.kl",
        ),
        f"{DISTRIBUTIONS} 'gaussian or kl_is'",
    ),
    (
        "distributions.py",
        (
            "TanhGaussian.log_prob",
            "TanhGaussian.entropy",
            "TanhGaussian._squash",
            "TanhGaussian._log_density",
            "_log_slope",
        ),
        f"tests/test_distributions.py {THEORY} 'distributions_are or squashed'",
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
    ("optimisation.py", ("*",), "tests/test_optimisation.py"),
    ("adam.py", ("*",), "tests/test_optimisation.py"),
    ("priorities.py", ("Priorities.put", "Priorities.draw", "importance"), "tests/test_priorities.py"),
    (
        "critics.py",
        ("least", "td_target", "where_next_action", "fit"),
        f"{EQUATIONS} 'critics or td_target or next_action'",
    ),
    (
        "trust_region.py",
        ("*",),
        "tests/algorithms/test_trpo.py -k 'conjugate or residual or curvature or tolerance or direction or as_long"
        " or usable or damping or backtracking or failed_search or tries or better or predictions'",
    ),
    ("trajectories.py", ("importance_ratios", "weighted_return", "effective_sample_size"), PG),
    (
        "memory.py",
        ("Memory.add", "Memory.sample", "Memory.window"),
        "tests/test_memory.py -k 'window or one_row or uniform or masses_follow'",
    ),
    (
        "exploration.py",
        ("ornstein_uhlenbeck", "into_bounds"),
        "tests/algorithms/test_ddpg.py -k 'noise or smoothing'",
    ),
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
    (
        "algorithms/ac.py",
        ("score_loss", "temperature_loss", "entropy_target"),
        "tests/algorithms/test_ac.py -k 'equations or entropy_targets'",
    ),
    (
        "algorithms/ddpg.py",
        ("policy_objective", "smoothed"),
        "tests/algorithms/test_ddpg.py -k 'chain_rule or smoothing'",
    ),
    ("algorithms/naf.py", ("*",), "tests/algorithms/test_naf.py -k 'quadratic or root'"),
    ("algorithms/trpo.py", ("improvement", "adapted_penalty"), f"{EQUATIONS} 'improvement or penalty'"),
]


def operators() -> list[Mutant]:
    """All operator mutants of all targets."""
    return [mutant for file, names, tests in TARGETS for mutant in generate(file, names, tests)]
