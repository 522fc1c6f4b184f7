"""Write the newest versions that resolve into pyproject.toml, as constraints that hold for any index.

    uv lock --upgrade && uv run python tools/pin.py

uv.lock itself names the index it was made with, so it stays out of the repository: see docs/design.md.
"""

import re
import subprocess
from pathlib import Path

MARK = "# Pins, written by tools/pin.py; one line a package.\n"

exported = subprocess.run(
    [
        "uv",
        "export",
        "--all-extras",
        "--all-groups",
        "--no-emit-project",
        "--no-hashes",
        "--no-annotate",
        "--no-header",
    ],
    check=True,
    capture_output=True,
    text=True,
).stdout
pins = "".join(f'  "{line.replace(chr(34), chr(39))}",\n' for line in exported.splitlines() if "==" in line)
path = Path(__file__).parents[1] / "pyproject.toml"
text = path.read_text()
block = f"{MARK}[tool.uv]\nconstraint-dependencies = [\n{pins}]\n"
text = re.sub(re.escape(MARK) + r"\[tool\.uv\]\n.*?\n\]\n", "", text, flags=re.S).rstrip("\n")
path.write_text(f"{text}\n\n{block}")
