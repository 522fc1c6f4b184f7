"""What `ridgeline check-env` finds: each row where it is so, and where it is not."""

import re

import gymnasium
import numpy as np
import pytest

from ridgeline import cli
from ridgeline.environments import make
from ridgeline.environments.classic import CartPole
from ridgeline.experiments.check_env import suggest
from ridgeline.types import Step


class Walk(gymnasium.Env):
    """Five steps from a seeded place; does what it promises."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    scale = 1.0
    length = 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.uniform(-0.5, 0.5, 2)
        return self.look(), {}

    def step(self, action):
        self.t += 1
        self.place = self.place + 0.1 * (action - 0.5)
        return self.look(), self.scale * float(self.place[0]), self.t == self.length, False, {}

    def look(self):
        return self.place.astype(np.float32)


class Unseeded(Walk):
    def look(self):
        return np.random.default_rng().uniform(-1, 1, 2).astype(np.float32)


class Remembers(Walk):
    """Keeps state across episodes: each begins a little further on."""

    level = -1

    def reset(self, *, seed=None, options=None):
        self.level += 1
        return super().reset(seed=seed)

    def look(self):
        return (self.place + self.level).astype(np.float32)


class Endless(Walk):
    length = 10**9


class Steep(Walk):
    scale = 1e4


class Far(Walk):
    def look(self):
        return (50 * self.place).astype(np.float32)


class Wide(Walk):
    def look(self):
        return self.place * 1000  # float64, and outside


class Nan(Walk):
    def look(self):
        return np.full(2, np.nan if self.t == 3 else 0, np.float32)


class Mismatched(CartPole):
    def step(self, key, state, action):
        after, step = super().step(key, state, action)
        return after, Step(step.next_obs[:2], *step[1:])


@pytest.fixture
def examine(monkeypatch, capsys):
    """The exit code, the rows by name and verdict, and all that was printed."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(env, flags="--episodes 3"):
        name = env if isinstance(env, str) else f"{__name__}:{env.__name__}"
        with pytest.raises(SystemExit) as stop:
            cli.main(["check-env", name, *flags.split()])
        said = capsys.readouterr()
        verdicts = ("ok", "note", "FAIL")
        lines = [line.split() for line in said.out.splitlines()]
        rows = {
            " ".join(words[:i]): words[i]
            for words in lines
            for i in [next((i for i, word in enumerate(words) if word in verdicts), 0)]
            if i
        }
        return stop.value.code, rows, said

    return run


def test_a_sound_environment_is_ok_throughout(examine):
    code, rows, said = examine(Walk)
    assert code == 0
    assert set(rows.values()) == {"ok"}, said.out
    assert list(rows) == [
        "construction",
        "observations",
        "actions",
        "contract",
        "time limit",
        "determinism",
        "replay",
        "rewards",
        "observation scale",
        "random return",
        "speed",
    ]
    assert re.search(f"ridgeline train (ppo|dqn) {__name__}:Walk\n", said.out)  # by how fast it was
    assert "15 steps of 3 episodes" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("env", "row", "says"),
    [
        (Unseeded, "determinism", "the observation of reset differs"),
        (Unseeded, "replay", "draw only from self.np_random"),
        (Remembers, "replay", "let reset set all there is"),
        (Endless, "time limit", "0 of 3 episodes ended"),
        (Steep, "rewards", "--normalise-rewards"),
        (Far, "observation scale", "--normalise-observations"),
        (Wide, "made to fit", "float64 and its space float32"),
        (Wide, "made to fit", "passed on as it is"),
    ],
)
def test_what_is_awkward_is_noted_with_what_to_do(examine, env, row, says):
    code, rows, said = examine(env)
    assert code == 0
    assert rows[row] == "note"
    assert says in said.out


def test_state_kept_across_episodes_is_no_want_of_determinism(examine):
    assert examine(Remembers)[1]["determinism"] == "ok"


def test_a_broken_promise_is_a_row_and_an_error_line(examine):
    code, rows, said = examine(Nan)
    assert code == 3
    assert rows["contract"] == "FAIL"
    assert "step 3 of the episode with seed 0: observation[0] is nan" in said.err
    assert len(said.err.splitlines()) == 1
    assert "ridgeline train" not in said.out


def test_a_jax_environment_is_traced_and_stepped(examine):
    code, rows, said = examine("CartPole-v1")
    assert (code, rows["traces in JAX"], rows["contract"]) == (0, "ok", "ok")
    code, rows, said = examine(Mismatched)
    assert (code, rows["traces in JAX"]) == (3, "FAIL")
    assert "next_obs is float32[2]" in said.err


def test_what_cannot_be_made_or_asked_is_refused(examine):
    code, rows, said = examine("CartPol-v1")
    assert (code, rows["construction"]) == (2, "FAIL")
    assert "did you mean" in said.err
    assert examine(Walk, "--episodes 0")[0] == 2
    assert examine(Walk, "--env-timeout -1")[0] == 2


def test_the_suggestion_knows_presets_actions_and_speed():
    fast, slow = 1e5, 100.0
    assert suggest("CartPole-v1", make("CartPole-v1"), None, slow) == "ridgeline train ppo CartPole-v1"
    walk = make(Walk)
    assert suggest("m:Walk", walk, "gymnasium", fast) == "ridgeline train ppo m:Walk --backend gymnasium"
    assert suggest("m:Walk", walk, None, slow) == "ridgeline train dqn m:Walk"
    assert suggest("x", make("MountainCarContinuous-v0", "gymnasium"), None, slow) == "ridgeline train sac x"
