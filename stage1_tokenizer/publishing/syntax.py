"""A module's source as statements: which names each of them binds, which lines are its own, what it imports."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

OURS = ("data", "launch", "stage1_tokenizer")
"""Packages whose modules travel along with a release."""

Import = ast.Import | ast.ImportFrom


class FlattenError(Exception):
    """An import of ours that can't be followed, or a name that isn't where it is imported from."""


@dataclass
class Source:
    """One module: its statements, and which of them bind which name."""

    module: str
    lines: list[str]
    statements: list[ast.stmt]
    binds: dict[str, list[int]] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)
    imports: dict[str, tuple[Import, ast.alias]] = field(default_factory=dict)
    """Imports that the reached statements need, by the name they bind."""
    shortened: dict[int, str] = field(default_factory=dict)
    """Texts of statements that are not taken as they stand, by number."""

    @classmethod
    def read(cls, module: str) -> Source:
        """Find and parse a module without running it."""
        spec = importlib.util.find_spec(module) if is_module(module) else None
        if spec is None or spec.origin is None:
            raise FlattenError(f"{module} is not a module")
        text = Path(spec.origin).read_text()
        source = cls(module, text.splitlines(), ast.parse(text).body)
        for number, statement in enumerate(source.statements):
            for name in bound(statement):
                source.binds.setdefault(name, []).append(number)
        return source

    def shorten(self, name: str, entries: Collection[str]) -> None:
        """Keep some entries of the top-level dictionary `name`. FlattenError if it lacks one of them."""
        for number in self.binds.get(name, []):
            statement = self.statements[number]
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Dict):
                table = statement.value
                keys = [key.value if isinstance(key, ast.Constant) else None for key in table.keys]
                kept = [place for place, key in enumerate(keys) if key in entries]
                if len(kept) == len(entries):
                    table.keys, table.values = [table.keys[n] for n in kept], [table.values[n] for n in kept]
                    self.shortened[number] = ast.unparse(statement)
                    return
        raise FlattenError(f"{self.module} has no dictionary `{name}` with the entries {', '.join(entries)}")

    def text(self, number: int) -> str:
        """A statement's lines, with its decorators, the comments above it and the docstring below it."""
        if number in self.shortened:
            return self.shortened[number]
        statement = self.statements[number]
        first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
        while first > 1 and self.lines[first - 2].startswith("#"):
            first -= 1
        last = statement.end_lineno or statement.lineno
        after = self.statements[number + 1] if number + 1 < len(self.statements) else None
        if after is not None and isinstance(statement, (ast.Assign, ast.AnnAssign)) and is_text(after):
            last = after.end_lineno or last
        return "\n".join(self.lines[first - 1 : last])


def bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds, or whose values it changes."""
    if for_types_only(statement):
        return
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, Import):
            yield from (name_of(alias) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
    changed: list[ast.expr] = []
    if isinstance(statement, (ast.Assign, ast.AugAssign)):
        changed = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        changed = [statement.value.func]
    for target in changed:
        inner = target
        while isinstance(inner, (ast.Attribute, ast.Subscript)):
            inner = inner.value
        if inner is not target and isinstance(inner, ast.Name):
            yield inner.id


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes within, less the annotations of functions and variables, which aren't evaluated; fields' are kept."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AnnAssign) and not isinstance(node, ast.ClassDef):
            parts: list[ast.AST] = [child.target, *([child.value] if child.value else [])]
        elif isinstance(child, ast.arg):
            parts = []
        else:
            parts = [child]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and child is node.returns:
            continue
        for part in parts:
            yield from nodes(part)


def name_of(alias: ast.alias) -> str:
    """The name that an import binds."""
    return alias.asname or alias.name.split(".")[0]


def is_ours(statement: Import) -> bool:
    """Whether an import is of one of OURS, or relative."""
    names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else [statement.module or ""]
    return any(name.split(".")[0] in OURS for name in names) or bool(getattr(statement, "level", 0))


def is_text(statement: ast.stmt | None) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def for_types_only(statement: ast.stmt) -> bool:
    """Whether it is `if TYPE_CHECKING:`, which never runs."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")


def is_module(name: str) -> bool:
    """Whether a dotted name is that of a module."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
