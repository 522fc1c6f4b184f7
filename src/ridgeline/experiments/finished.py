"""A finished run, read from its folder."""

from pathlib import Path
from typing import Any

from ridgeline.errors import UsageError
from ridgeline.experiments.policy import Policy, load
from ridgeline.report import curves, page
from ridgeline.report.result import seeds_of
from ridgeline.safe import read_json
from ridgeline.types import Algorithm


class Run:
    """A finished run, read from its folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = read_json(self.folder / "config.json")
        self.result: dict[str, Any] = read_json(self.folder / "result.json")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were trained."""
        return seeds_of(self.config, str(self.folder / "config.json"))

    @property
    def curves(self) -> curves.Curves:
        """Every metric over training: arrays [seeds, log points], with the IQM and its interval."""
        return curves.read(self.folder / "metrics.jsonl")

    def policy(self, seed: int, algorithm: Algorithm[Any, Any] | None = None) -> Policy:
        """The final policy of a seed. Pass the `algorithm` record if it has a custom encoder."""
        if seed not in self.seeds:
            raise UsageError(f"run {self.folder} has no seed {seed}: it has {', '.join(map(str, self.seeds))}")
        return load(self.folder / "policies" / f"seed-{seed}.safetensors", algorithm)

    def report(self) -> Path:
        """Write the report anew; the path of its page."""
        return page.write(self.folder)
