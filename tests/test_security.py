"""The source runs no code out of a file: nothing in it could. See SECURITY.md."""

import ast
from pathlib import Path

import pytest

import ridgeline

SRC = Path(ridgeline.__file__).parent

# Modules that make objects, and so run code, out of bytes.
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "code",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    "load_module",
    "exec_module",
    "spec_from_file_location",
    "pickle",
    "to_pickle",
    "read_pickle",
    "unsafe_load",
}

# Where a module is imported by a name that is not written there, and whence the name is.
IMPORTERS = {
    "__init__.py": "the constant table of the package's names",
    "cli/__init__.py": "the constant table of commands",
    "environments/envpool.py": "the constant envpool",
    "environments/host.py": "module:name of the command line, or of the caller",
    "theory/property.py": "constants of the properties",
    "theory/verify.py": "the files of the package itself",
}


def faults(source: str, file: str) -> list[str]:
    """What a source file must not hold."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {name}" for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Name) and node.id in CALLS:
            # Also where it is not called at once. jax.jit(f).lower().compile() is an attribute, not this name.
            found.append(f"names {node.id}")
        elif isinstance(node, ast.Attribute) and node.attr in METHODS:
            found.append(f"names .{node.attr}")
        elif isinstance(node, ast.Attribute) and node.attr == "import_module" and file not in IMPORTERS:
            found.append("imports by a name that it is given")
        elif isinstance(node, ast.ImportFrom | ast.Import) and "import_module" in ast.dump(node):
            found.append("takes import_module by itself")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found += (
                ["allows pickles"] if not (isinstance(node.value, ast.Constant) and not node.value.value) else []
            )
    return found


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_no_file_of_the_package_can_run_what_it_reads(path: Path) -> None:
    assert faults(path.read_text(), str(path.relative_to(SRC))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import marshal as m",
        "from shelve import open",
        "import yaml",
        "from cloudpickle import loads",
        "eval('1')",
        "f = exec",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "import numpy as np; np.load('x', allow_pickle=flag)",
        "import importlib; importlib.import_module(name)",
        "import pandas; pandas.read_pickle('x')",
    ],
)
def test_each_fault_is_found(source: str) -> None:
    assert faults(source, "x.py")


def test_what_may_import_by_name_does() -> None:
    for file in IMPORTERS:
        assert "import_module" in (SRC / file).read_text(), file


def test_the_page_names_every_kind_of_file() -> None:
    page = (SRC.parents[1] / "SECURITY.md").read_text()
    for word in (
        "config.json",
        "policies/",
        "metrics.jsonl",
        "result.json",
        "checkpoint",
        "--allow-import",
        "cache",
    ):
        assert word in page, word
