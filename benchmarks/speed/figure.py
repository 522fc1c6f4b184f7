"""The speed table as a picture: seconds of training for each work and side, on a logarithmic axis."""

from pathlib import Path
from typing import Any

COLOURS = {"ridgeline": "#2560b4", "rltools": "#b8570f", "rejax": "#2b7a4b", "sbx": "#8347a5", "sb3": "#98a2b1"}
LIMIT = "#1b222c"


def draw(works: list[dict[str, Any]], path: Path) -> None:
    """Bars for what was run, and a line where the limit of each work is."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ridgeline"}
    from matplotlib import pyplot

    bars = sum(len(work["sides"]) for work in works)
    figure, axes = pyplot.subplots(figsize=(8, 0.24 * bars + 0.3 * len(works) + 1))
    height, labels, seen = 0.0, [], set()
    for work in works:
        top = height
        for name, side in work["sides"].items():
            label = None if name in seen else name
            seen.add(name)
            axes.barh(height, side["run"], color=COLOURS[name], label=label, height=0.85)
            axes.text(side["run"] * 1.05, height, f"{side['run']:.3g}", va="center", fontsize=7)
            height += 1
        least = work["limit"]["products"] + work["limit"]["environment"]
        label = None if "limit" in seen else "limit: products and environment"
        seen.add("limit")
        axes.vlines(least, top - 0.5, height - 0.5, color=LIMIT, linestyle=":", label=label)
        labels.append(((top + height - 1) / 2, work["work"]))
        height += 0.8
    axes.set_xscale("log")
    axes.set_xlabel("seconds of training, median of several turns (logarithmic)")
    axes.set_yticks([at for at, _ in labels], [name for _, name in labels])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="upper center", ncols=len(seen), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    figure.savefig(path, metadata={"Date": None})
