"""The tables of docs/types.md, compared with what the tests find. PIPEDAG_WRITE_DOCS=1 writes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "types.md"


def check_table(name: str, header: list[str], rows: list[list[str]]) -> None:
    """Compare the table between the marks `<!-- name -->` and `<!-- end -->` with these rows."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = PAGE.read_text()
    found = re.search(rf"(<!-- {name} -->\n)(.*?)(\n<!-- end -->)", text, re.DOTALL)
    assert found is not None, f"docs/types.md has no place for the table {name!r}"
    if os.environ.get("PIPEDAG_WRITE_DOCS"):
        PAGE.write_text(text[: found.start(2)] + table + text[found.end(2) :])
    else:
        assert found[2] == table
