"""Build docs/ into an offline site: equations as MathML, no script, nothing from other hosts; a fault is an error.

    uv run --group docs python tools/pages.py [FOLDER]

First it builds small documents with one fault each, and each must be refused: a check that cannot fail is none.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import docutils_namespace, patch_docutils
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
STYLE = """
body { max-width: 76rem; margin: auto; padding: 0 1rem; font: 16px/1.5 sans-serif }
div.document { display: grid; grid-template-columns: minmax(0, 1fr) 14rem; gap: 2rem }
div.sphinxsidebar { float: none; width: auto; margin: 0; font-size: 14px }
pre, code { font-size: 14px }
pre { overflow-x: auto; padding: .5rem; background: #f6f6f6 }
td, th { border: 1px solid #ccc; padding: .2rem .5rem; text-align: left }
math { font-family: "STIX Two Math", "Latin Modern Math", "Cambria Math", math; font-size: 1.1em }
math[display="block"] { margin: 1rem 0; overflow-x: auto }
img { max-width: 100% }
"""
OPTIONS = {
    "project": "ridgeline",
    "extensions": ["myst_parser", __name__],
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 6,
    "html_theme": "basic",
    "html_math_renderer": "mathml",
    "html_sidebars": {"**": ["globaltoc.html"]},
    "html_use_index": False,
    "html_copy_source": False,
    "html_show_sphinx": False,
    "html_show_copyright": False,
}
FAULTS = {  # which file says what, and what the builder must answer
    "an unknown command": ("page.md", "$\\nosuch{x}$", "broken equation .*nosuch"),
    "a brace left open": ("page.md", "$$\\frac{a}{b$$", "broken equation"),
    "a link to no page": ("page.md", "[x](nowhere.md)", "nowhere.md"),
    "a link to no file": ("page.md", "[x](../nowhere.md)", "nowhere.md"),
    "a link to no heading": ("page.md", "[x](#nowhere)", "'nowhere'"),
    "a link to no heading of another page": ("page.md", "[x](index.md#nowhere)", "'nowhere'"),
    "a picture that is not there": ("page.md", "![x](nowhere.svg)", "nowhere.svg"),
    "a picture from another host": ("page.md", '<img src="https://example.org/x.png">', "https://example.org"),
    "a script": ("page.md", "<script>1</script>", "<script>"),
    "a page that the index leaves out": ("other.md", "# Other", "other.md: WARNING: document isn't included"),
}

logger = logging.getLogger(__name__)
mathml = LatexToMathML(fancy_error=False)


def equation(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML."""
    try:
        display = isinstance(node, nodes.math_block)
        translator.body.append(mathml.convert_with_local_state(node.astext(), displaystyle=display))
    except LatexError as error:
        logger.warning("broken equation %r: %s", node.astext(), error, location=node)
    raise nodes.SkipNode


def read(app: Sphinx, page: str, text: list[str]) -> None:
    """Make what the index links to its table of contents, which must hold every page; let links lead out."""
    if page == "index":
        pages = "\n".join(dict.fromkeys(re.findall(r"\]\(([\w/-]+)\.md\)", text[0])))
        text[0] += f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    outwards = "../" * (page.count("/") + 1)
    text[0] = text[0].replace(f"]({outwards}", f"](path:{outwards}")


def scriptless(app: Sphinx, page: str, template: str, context: dict[str, object], tree: object) -> None:
    """Leave out Sphinx's scripts."""
    context["script_files"] = []


def setup(app: Sphinx) -> None:
    """What Sphinx calls to add the above."""
    app.add_html_math_renderer("mathml", (equation, None), (equation, None))
    app.connect("source-read", read)
    app.connect("html-page-context", scriptless)


def foreign(path: Path) -> list[str]:
    """The scripts and the other hosts that a written file needs."""
    return re.findall(r"<script.*?>|(?:src=|href=|url\(|@import)[\"' ]*(?:https?:)?//[^\s\"')]*", path.read_text())


def build(source: Path, output: Path) -> list[str]:
    """Build a folder of Markdown; what was wrong with it, one line each."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as trees, patch_docutils(), docutils_namespace():
        app = Sphinx(source, None, output, trees, "html", OPTIONS, status=None, warning=said, freshenv=True)
        app.builder.search = False  # it needs a script
        app.build()
    (output / "_static" / "basic.css").open("a").write(STYLE)
    for script in output.rglob("*.js"):
        script.unlink()
    texts = [path for path in output.rglob("*") if path.suffix in {".html", ".css", ".svg"}]
    return said.getvalue().splitlines() + [f"{path}: {found}" for path in texts for found in foreign(path)]


def refused(file: str, wrong: str, answer: str) -> bool:
    """Whether a folder with a fault gets the answer due."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "docs"), Path(folder, "site")
        source.mkdir()
        (source / "index.md").write_text("# Index\n\n[page](page.md)\n")
        (source / "page.md").write_text("# Page\n\n")
        with (source / file).open("a") as page:
            page.write(wrong)
        return any(re.search(answer, line) for line in build(source, output))


def main(output: Path) -> int:
    """Check the checks, then build."""
    found = [f"pages.py does not refuse {name}" for name, fault in FAULTS.items() if not refused(*fault)]
    found += build(ROOT / "docs", output)
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"))
