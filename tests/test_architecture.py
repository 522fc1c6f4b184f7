"""The house keeps its shape: floors, sizes, one place for each thing."""

import ast
import subprocess
import sys
from pathlib import Path

import ridgeline

SRC = Path(ridgeline.__file__).parent


def test_imports_point_down() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=SRC.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_dqn_end_to_end_is_five_files_and_900_lines() -> None:
    """What a reader opens, beside the vocabulary in types.py: the algorithm, its networks, its memory, its
    optimiser, and the loop that runs it.
    """
    files = ["algorithms/dqn.py", "networks.py", "memory.py", "optimisation.py", "training/compiled.py"]
    assert sum(len((SRC / file).read_text().splitlines()) for file in files) <= 900


def test_no_algorithm_is_longer_than_300_lines() -> None:
    for path in (SRC / "algorithms").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, ridgeline; print([m for m in ('jax', 'gymnasium', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_files_runs_no_code() -> None:
    """No pickle, eval, exec or unsafe YAML anywhere in the package."""
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile"), path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "cloudpickle", "dill", "yaml", "marshal"} & set(names), path


def test_no_block_of_six_lines_stands_twice() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for path in sorted(SRC.rglob("*.py")):
        lines = [(i, line.strip()) for i, line in enumerate(path.read_text().splitlines(), 1)]
        code = [(i, line) for i, line in lines if len(line) > 3 and not line.startswith(("#", "import ", "from "))]
        for start in range(len(code) - 5):
            block = tuple(line for _, line in code[start : start + 6])
            place = f"{path.relative_to(SRC)}:{code[start][0]}"
            assert block not in seen, f"{place} repeats {seen[block]}"
            seen[block] = place
