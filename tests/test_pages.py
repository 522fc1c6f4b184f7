"""The pages of docs/ say what the code is: every name they cite, every metric, every hyper-parameter."""

import dataclasses
import importlib
import operator
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ridgeline
from ridgeline.algorithms import REGISTRY
from ridgeline.theory.verify import all_properties

ROOT = Path(__file__).parents[1]
PACKAGE = Path(ridgeline.__file__).parent
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def module_of(page: Path) -> ModuleType:
    """The algorithm that a page is about."""
    return importlib.import_module(f"ridgeline.algorithms.{page.stem}")


def homes(module: ModuleType) -> list[dict[str, Any]]:
    """The names of a module, of those that it takes names from, and the modules of the package themselves."""
    sources = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
    ours = [importlib.import_module(name) for name in sorted(sources) if name.startswith("ridgeline.")]
    return [vars(module), *map(vars, ours)]


def exists(name: str, module: ModuleType) -> bool:
    """Whether `function`, `Class.method`, `module.function` or `package.module` is there."""
    first, _, rest = name.partition(".")
    starts = [home[first] for home in homes(module) if first in home]
    if (PACKAGE / f"{first}.py").exists() or (PACKAGE / first).is_dir():
        starts.append(importlib.import_module(f"ridgeline.{first}"))
        inner = PACKAGE / first / f"{rest.partition('.')[0]}.py"
        if inner.exists():
            importlib.import_module(f"ridgeline.{first}.{inner.stem}")
    for start in starts:
        try:
            if not rest or operator.attrgetter(rest)(start) is not None:
                return True
        except AttributeError:
            pass
    return False


@every_page
def test_the_functions_of_the_pseudo_code_exist(page: Path) -> None:
    rows = page.read_text().split("## Pseudo-code")[1].split("\n## ")[0].splitlines()
    cited = [re.findall(r"`([\w.]+)`", row.rsplit("|", 2)[1]) for row in rows if row.startswith("|")]
    names = [name for row in cited for name in row]
    assert len(names) > 5
    assert [name for name in names if not exists(name, module_of(page))] == []


@every_page
def test_the_functions_of_the_docstring_exist(page: Path) -> None:
    lines = (module_of(page).__doc__ or "").splitlines()
    ends = [match[1] for line in lines if (match := re.search(r" {2,}((?:the runner, )?`[^,]*(?:, `.*)*)$", line))]
    names = re.findall(r"`([\w.]+)`", " ".join(ends))
    assert names
    assert [name for name in names if not exists(name, module_of(page))] == []


@every_page
def test_every_metric_is_explained(page: Path) -> None:
    """On the page itself, or on one that its section on metrics points to."""
    text = page.read_text()
    linked = re.findall(r"\((\w+\.md)#metrics\)", text.split("\n## Metrics")[1].split("\n## ")[0])
    explained = text + "".join((page.parent / other).read_text() for other in linked)
    measured = re.findall(r'"((?:train|rollout)/\w+)"', Path(module_of(page).__file__ or "").read_text())
    assert [name for name in measured if f"`{name}`" not in explained] == []


@every_page
def test_every_hyper_parameter_is_explained(page: Path) -> None:
    """Those that the algorithm has of its own, and those of records within it."""
    module, text = module_of(page), page.read_text()
    records = [x for x in vars(module).values() if dataclasses.is_dataclass(x) and x.__module__ == module.__name__]
    fields = [field for x in records for field in dataclasses.fields(x) if field.name in x.__annotations__]
    own = {field.name for field in fields if field.default is not dataclasses.MISSING}
    assert own
    assert sorted(name for name in own if not re.search(rf"[`.]{name}`", text)) == []


def test_every_algorithm_stands_in_the_readme_and_has_a_page() -> None:
    for text in ((ROOT / "README.md").read_text(), (ROOT / "docs" / "index.md").read_text()):
        for name, record in REGISTRY.items():
            home = record.__module__.rpartition(".")[2]
            assert f"algorithms/{home}.md" in text
            assert f"`{name}`" in text


def test_every_property_stands_in_its_table() -> None:
    text = (ROOT / "docs" / "verify.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")] for row in text.splitlines() if row.startswith("| ")]
    for found in all_properties():
        (row,) = [row for row in rows if row[1] == str(found.number)]
        assert row[2] == found.title
        assert found.reference in row
