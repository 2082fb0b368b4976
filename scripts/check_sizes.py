"""Fail for a file over 350 lines or a function over 50: python scripts/check_sizes.py FOLDER ..."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE, FUNCTION = 350, 50  # lines, at most


def too_large(path: Path) -> Iterator[str]:
    """What in a Python file is larger than it may be, a line each."""
    text = path.read_text(encoding="utf-8")
    if (lines := len(text.splitlines())) > FILE:
        yield f"{path}: {lines} lines, at most {FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION}"


def main(folders: list[str]) -> int:
    """0, or 1 where something is too large."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    found = [line for path in files for line in too_large(path)]
    print("\n".join(found or [f"{len(files)} files: none over {FILE} lines, no function over {FUNCTION}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
