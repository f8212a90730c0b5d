"""Renders the notebooks as pages of the site: cells, printed outputs, tables and figures."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page, and its figures, for each notebook; the notebook stays, to be downloaded."""
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        name = Path(file.src_uri).stem
        notebook = json.loads(file.content_string)
        for figure, content in iterate_figures(notebook, name):
            files.append(File.generated(config, f"notebooks/{figure}", content=content))
        files.append(File.generated(config, f"notebooks/{name}.md", content=render(notebook, name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to notebooks lead to their pages."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    return re.sub(r"(\]\([^)\s]*notebooks/[\w-]+)\.ipynb", r"\1.md", markdown)


def iterate_figures(notebook: dict[str, Any], name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the file name and content of each figure."""
    for cell in notebook["cells"]:
        for number, output in enumerate(cell.get("outputs", [])):
            if "image/png" in output.get("data", {}):
                yield f"{name}-{cell['id']}-{number}.png", base64.b64decode(output["data"]["image/png"])


def render(notebook: dict[str, Any], name: str) -> str:
    """Return the page as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_render_output(o, f"{name}-{cell['id']}-{i}.png") for i, o in enumerate(cell["outputs"])]
    parts.insert(1, f"[Download the notebook]({name}.ipynb){{ download }}")
    return "\n\n".join(parts) + "\n"


def _render_output(output: dict[str, Any], figure: str) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![figure]({figure})"
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        table = re.sub(r"<table[^>]*>", "<table>", table)
        return "\n".join(line for line in table.splitlines() if line.strip())
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```"
