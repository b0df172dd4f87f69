"""Check docstrings: plain technical English, and every parameter of a larger public function described.

    python tools/docstrings.py src          # exit status 1 and one line a finding

1. A docstring begins with an imperative or a noun phrase: not with a word of BANNED_FIRST. No docstring, help
   of an option or description of a field holds a phrase of BANNED.
2. The docstring of a public function or method of more than three parameters names each of them. Commands of
   `cli/` are exempt: their options carry help texts.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

BANNED_FIRST = re.compile(
    r"\W*(what|how|where|when|which|who|why|whose|this|these|that|it|its|does|gives|has|holds|is|keeps|knows"
    r"|makes|puts|raises|reads|returns|says|takes|tells|writes)\b",
    re.IGNORECASE,
)
BANNED = re.compile(r"\b(told|said|asked|alone|whose|as they are)\b", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def findings(path: Path) -> list[str]:
    """Findings in a Python file, one line each: "path:line: what is wrong"."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found = [*_wording(tree), *([] if "cli" in path.parts else _undescribed(tree))]
    return [f"{path}:{line}: {what}" for line, what in sorted(found)]


def _wording(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            docstring = node.body[0].value  # type: ignore[attr-defined]
            texts.append(docstring)
            if first := BANNED_FIRST.match(docstring.value):
                yield docstring.lineno, f'begins with "{first[1]}": begin with an imperative or a noun phrase'
        elif isinstance(node, ast.Call):
            texts += [word.value for word in node.keywords if word.arg in ("help", "description")]
        for text in texts:
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                for match in BANNED.finditer(text.value):
                    line = text.lineno + text.value[: match.start()].count("\n")
                    yield line, f'"{match[0]}": say it in standard technical English'


def _undescribed(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for function in _public_functions(tree):
        arguments = function.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        given += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        names = [one.arg for one in given if one.arg not in ("self", "cls", "args", "kwargs")]
        docstring = ast.get_docstring(function) or ""
        missing = [name for name in names if not re.search(rf"\b{name}\b", docstring)]
        if len(names) > 3 and missing:
            yield function.lineno, f"{function.name}: the docstring does not describe {', '.join(missing)}"


def _public_functions(tree: ast.Module) -> Iterator[Function]:
    """Public functions of the module, and public methods of its public classes."""
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for member in members:
            if isinstance(member, Function) and (member.name == "__call__" or member.name[0] != "_"):
                yield member


def main(folders: list[str]) -> int:
    """Print the findings in the Python files of the folders; 1 if there are any."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    found = [finding for path in files for finding in findings(path)]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
