"""What the pages in docs/ show, so that tests can run it: their code, their files, their command lines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Page:
    """One page, by its path in the checkout."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text(encoding="utf-8")

    def blocks(self, language: str = "") -> list[str]:
        """The fenced blocks marked with `language`; "" gives those without a mark."""
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        return [text for mark, text in fenced if mark == language]

    def commands(self, language: str = "bash") -> list[list[str]]:
        """The lines of its blocks that call robotlearn, as their arguments; comments left out."""
        lines = "".join(self.blocks(language)).replace("\\\n", " ").splitlines()
        split = (shlex.split(line, comments=True) for line in lines)
        return [words[1:] for words in split if words[:1] == ["robotlearn"]]
