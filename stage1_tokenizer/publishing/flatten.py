"""One class with all it needs, as flat files that import each other relatively: `flatten("package.module", "name.py")`.

`transformers` loads such files beside a model's weights (trust_remote_code). They are made of the packages' own source:
imports are followed name by name, and of each module only the statements that are reached are taken, as they stand;
settings lose their help texts and checks (stage1_tokenizer.publishing.lean). What can't be followed raises
FlattenError, so that a release is never incomplete.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stage1_tokenizer.publishing.lean import unneeded

OURS = ("data", "launch", "stage1_tokenizer")
"""Packages whose modules travel along with a release."""

Import = ast.Import | ast.ImportFrom

THERE = frozenset({"torch", "numpy", "transformers", "safetensors", "huggingface_hub"}) | sys.stdlib_module_names
"""What is installed wherever transformers and torch are; the flat files may import nothing else."""

RULE = "write `from package.module import name` at the top of the file, which can be followed"


class FlattenError(Exception):
    """An import of ours that can't be followed, or a name that isn't where it is imported from."""


class Name(NamedTuple):
    """A name at the top level of a module of ours."""

    module: str
    name: str


Tables = Mapping[str, Mapping[str, Collection[str]]]
"""By module and name of a top-level dictionary: the entries of it that are needed."""


def flatten(root: str, file: str, header: str, tables: Tables | None = None) -> dict[str, str]:
    """Texts of the flat files by name: module `root` whole, as `file`, and what it needs from our other modules.

    `header` is a comment for the top of each. `tables` shorten dictionaries of kinds to those that are used, so that
    the others don't travel. Raises FlattenError if something can't be followed.
    """
    walk = _Walk(root, file.removesuffix(".py"), tables or {})
    for number in range(len(walk.source(root).statements)):
        walk.reach(root, number)
    used = sorted(module for module, source in walk.sources.items() if source.reached)
    return {f"{walk.flat(module)}.py": walk.written(module, header) for module in used}


class _Walk:
    """Statements reached from the root so far."""

    def __init__(self, root: str, name: str, tables: Tables):
        self.root, self.name, self.tables = root, name, tables
        self.sources: dict[str, Source] = {}

    def source(self, module: str) -> Source:
        if module not in self.sources:
            self.sources[module] = Source.read(module)
            for name, entries in self.tables.get(module, {}).items():
                self.sources[module].shorten(name, entries)
        return self.sources[module]

    def flat(self, module: str) -> str:
        """The file of a module, without .py."""
        return self.name if module == self.root else module.replace(".", "_")

    def reach(self, module: str, number: int) -> None:
        """Take a statement, and all that it needs; imports are taken name by name, where they are needed."""
        source = self.source(module)
        statement = source.statements[number]
        if number in source.reached or is_text(statement) or for_types_only(statement):
            return
        if isinstance(statement, Import):
            return
        source.reached.add(number)
        for node in nodes(ast.Module([statement], [])):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self.need(module, node.id)
            elif isinstance(node, Import):
                raise FlattenError(f"{module} line {node.lineno}: {RULE}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.refuse_named_modules(source, node.lineno, node.value)
        for node in ast.walk(statement):  # annotations too, where they cost no more than an import line
            if isinstance(node, ast.Name) and node.id not in source.imports:
                self.need(module, node.id, ours=False)

    def need(self, module: str, name: str, *, ours: bool = True) -> None:
        """Reach whatever binds a name at the top of a module; names of functions and builtins are bound nowhere.

        Without `ours`, only if another project's import does.
        """
        source = self.source(module)
        for number in source.binds.get(name, []):
            statement = source.statements[number]
            if isinstance(statement, Import) and (ours or not is_ours(statement)):
                alias = next(alias for alias in statement.names if name_of(alias) == name)
                source.imports[name] = (statement, alias)
                if is_ours(statement):
                    self.need(*self.origin(module, statement, alias))
            elif ours:
                self.reach(module, number)

    def origin(self, module: str, statement: Import, alias: ast.alias) -> Name:
        """Where an imported name is defined, through modules that only hand it on."""
        at = f"{module} line {statement.lineno}"
        if isinstance(statement, ast.Import) or statement.level or statement.module is None:
            raise FlattenError(f"{at}: {RULE}")
        given = self.source(statement.module)
        numbers = given.binds.get(alias.name)
        if numbers is None:
            raise FlattenError(f"{at}: {statement.module} has no `{alias.name}` at its top level")
        first = given.statements[numbers[0]]
        if isinstance(first, ast.ImportFrom) and is_ours(first):
            inner = next(other for other in first.names if name_of(other) == alias.name)
            return self.origin(given.module, first, inner)
        return Name(statement.module, alias.name)

    def import_lines(self, module: str) -> list[str]:
        """The lines that import the same in the flat files, one for each module that names come from."""
        whole, names = list[str](), dict[str, list[str]]()
        for statement, alias in self.source(module).imports.values():
            name = alias
            if is_ours(statement):
                origin, local = self.origin(module, statement, alias), name_of(alias)
                place = f".{self.flat(origin.module)}"
                name = ast.alias(origin.name, None if origin.name == local else local)
            else:
                place = alias.name if isinstance(statement, ast.Import) else statement.module or ""
                if place.split(".")[0] not in THERE:
                    why = "isn't installed wherever transformers is"
                    raise FlattenError(f"{module} line {statement.lineno}: {place} {why}")
            if isinstance(statement, ast.Import):
                whole.append(ast.unparse(ast.Import([name])))
            else:
                names.setdefault(place, []).append(ast.unparse(name))
        return whole + [f"from {place} import {', '.join(sorted(of))}" for place, of in names.items()]

    def written(self, module: str, header: str) -> str:
        """The text of a module's flat file."""
        source = self.source(module)
        text = "\n".join(f"# {line}" for line in header.format(module=module).splitlines())
        text += "\n\nfrom __future__ import annotations\n\n" + "\n".join(self.import_lines(module)) + "\n"
        return text + "".join(f"\n\n{source.text(number)}\n" for number in sorted(source.reached))

    def refuse_named_modules(self, source: Source, line: int, text: str) -> None:
        """A text that is the name of a module of ours may be imported by it, which isn't followed."""
        if re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", text) and is_module(text):
            raise FlattenError(f"{source.module} line {line}: {text} is named in a text: import names of it")


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
    left_out: set[int] = field(default_factory=set)
    """Numbers of lines that are not taken."""

    @classmethod
    def read(cls, module: str) -> Source:
        """Find and parse a module without running it."""
        spec = importlib.util.find_spec(module) if is_module(module) else None
        if spec is None or spec.origin is None:
            raise FlattenError(f"{module} is not a module")
        text = Path(spec.origin).read_text()
        source = cls(module, text.splitlines(), ast.parse(text).body)
        for number, statement in enumerate(source.statements):
            for part in list(unneeded(module, statement)):
                source.leave_out(statement, part)
            for name in bound(statement):
                source.binds.setdefault(name, []).append(number)
        return source

    def leave_out(self, statement: ast.stmt, part: ast.stmt) -> None:
        """Take a class without a part of it, and without the empty line above that."""
        assert isinstance(statement, ast.ClassDef)
        statement.body.remove(part)
        first, last = part.lineno, part.end_lineno or part.lineno
        self.left_out.update(range(first - (not self.lines[first - 2].strip()), last + 1))

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
        return "\n".join(self.lines[n - 1] for n in range(first, last + 1) if n not in self.left_out)


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
