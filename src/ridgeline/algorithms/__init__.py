"""The registry: every algorithm by name. A new one is a file beside this and a line here."""

import difflib
from typing import Any

from ridgeline.algorithms.ac import AC, SAC
from ridgeline.algorithms.ddpg import DDPG, TD3
from ridgeline.algorithms.dqn import DQN
from ridgeline.algorithms.naf import NAF
from ridgeline.algorithms.pg import PG, VPG
from ridgeline.algorithms.ppo import PPO
from ridgeline.algorithms.qsearch import QSearch
from ridgeline.algorithms.trpo import TRPO
from ridgeline.errors import UsageError
from ridgeline.types import Algorithm

REGISTRY: dict[str, type[Algorithm[Any, Any]]] = {
    "pg": PG,
    "vpg": VPG,
    "dqn": DQN,
    "ac": AC,
    "sac": SAC,
    "ddpg": DDPG,
    "td3": TD3,
    "naf": NAF,
    "qsearch": QSearch,
    "trpo": TRPO,
    "ppo": PPO,
}


def by_name(name: str) -> type[Algorithm[Any, Any]]:
    """The algorithm of this name. Raises `UsageError` with the nearest name if there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name.lower(), REGISTRY, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(REGISTRY)}"
    raise UsageError(f"no algorithm {name!r}: {hint}")
