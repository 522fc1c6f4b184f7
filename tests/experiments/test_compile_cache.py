"""What is compiled is kept for the next process, in a folder that is private and bounded."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ridgeline.experiments import compile_cache
from ridgeline.experiments.compile_cache import VARIABLE, keep_compilations

unix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of Unix")
CODE = """
import sys
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
import ridgeline
flags = dict(evaluations=0, final_episodes=2, seeds=1, steps=64, out=sys.argv[1])
ridgeline.train(ridgeline.PPO(hidden=(8,), num_envs=2, rollout_length=16, batch_size=16), "CartPole-v1", **flags)
print(len(hits))
"""


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for caches, with JAX's configuration put back afterwards."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(compile_cache, "_caches", lambda: tmp_path / "caches")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path / "caches"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@unix
def test_the_next_process_compiles_nothing_again(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | {
        "XDG_CACHE_HOME": str(tmp_path / "cache")
    }
    hits = []
    for _ in range(2):
        words = [sys.executable, "-c", CODE, str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        hits.append(int(done.stdout))
    folder = tmp_path / "cache" / "ridgeline" / "compiled"
    kept = list(folder.glob("*/jit_chunk-*"))
    assert len(kept) == 1
    assert hits[0] == 0
    assert hits[1] >= len(list(folder.glob("*/*-cache")))
    assert folder.stat().st_mode & 0o777 == 0o700

    kept[0].write_bytes(kept[0].read_bytes()[:1000])  # as a kill amid writing leaves it
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == hits[1] - 1


@unix
def test_it_is_kept_where_nobody_else_may_write(caches: Path) -> None:
    (folder := caches / "ridgeline" / "compiled").mkdir(parents=True)
    folder.chmod(0o777)
    assert keep_compilations() == ()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Path(jax.config.jax_compilation_cache_dir).parent == folder


@unix
def test_what_is_not_the_users_is_not_used(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (caches / "ridgeline").mkdir(parents=True)
    (caches / "ridgeline" / "compiled").symlink_to(tmp_path / "elsewhere")
    (line,) = keep_compilations()
    assert "compiled is not a folder of yours" in line
    assert jax.config.jax_compilation_cache_dir is None
    (caches / "ridgeline" / "compiled").unlink()
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    (line,) = keep_compilations()
    assert "is not a folder of yours" in line
    assert jax.config.jax_compilation_cache_dir is None


def test_where_it_cannot_be_kept_a_line_says_so(caches: Path) -> None:
    caches.write_text("in the way")
    (line,) = keep_compilations()
    assert line.startswith("nothing that is compiled is kept (")
    assert jax.config.jax_compilation_cache_dir is None


def test_it_can_be_turned_off_and_another_is_left_alone(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert keep_compilations() == ()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.delenv(VARIABLE)
    jax.config.update("jax_compilation_cache_dir", "/of/the/user")
    assert keep_compilations() == ()
    assert jax.config.jax_compilation_cache_dir == "/of/the/user"
    assert not caches.exists()


def test_beyond_the_limit_the_oldest_go(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "LIMIT", 1000)
    (folder := caches / "ridgeline" / "compiled" / "kind").mkdir(parents=True)
    for age in range(11):
        (path := folder / f"{age}").write_bytes(bytes(100))
        os.utime(path, (1000 - age, 1000 - age))
    assert keep_compilations() == ()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2", "3", "4"]
    (folder / "5").write_bytes(bytes(500))
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_compilations() == ()
    assert len(list(folder.iterdir())) == 6, "at the limit nothing goes"
