"""The statements that a server has logged."""

from __future__ import annotations

import re
from pathlib import Path


class Log:
    """The statements in the log of a server since the last look."""

    def __init__(self, file: Path) -> None:
        self.file, self.seen = file, 0

    def statements(self) -> list[str]:
        text = self.file.read_text()
        new, self.seen = text[self.seen :], len(text)
        return re.findall(r"LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)", new)
