"""One class with all it needs, as flat files that import each other relatively: `flatten("package.module", "name.py")`.

`transformers` loads such files beside a model's weights (trust_remote_code). They are made of the packages' own source:
imports are followed name by name, and of each module only the statements that are reached are taken, as they stand.
What can't be followed raises FlattenError, so that a release is never incomplete.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from stage1_tokenizer.publishing.syntax import (
    OURS,
    FlattenError,
    Import,
    Source,
    for_types_only,
    is_future,
    is_module,
    is_ours,
    is_text,
    name_of,
    nodes,
    part,
)

THERE = frozenset({"torch", "numpy", "transformers", "safetensors", "huggingface_hub"}) | sys.stdlib_module_names
"""What is installed wherever transformers and torch are; other imports are allowed to fail."""


@dataclass(frozen=True)
class Name:
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
    return {f"{walk.flat(module)}.py": walk.written(module, header) for module in walk.used()}


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

    def used(self) -> list[str]:
        return sorted(module for module, source in self.sources.items() if source.reached)

    def flat(self, module: str) -> str:
        """The file of a module, without .py."""
        return self.name if module == self.root else module.replace(".", "_")

    def reach(self, module: str, number: int) -> None:
        """Take a statement, and all that it needs."""
        source = self.source(module)
        statement = source.statements[number]
        if number in source.reached or is_text(statement) or for_types_only(statement) or is_future(statement):
            return
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            return  # taken name by name, where they are needed
        source.reached.add(number)
        for node in nodes(ast.Module([statement], [])):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                inner = self.module_of(source, node.value.id)
                if inner is not None:
                    source.modules.setdefault(node.value.id, set()).add(node.attr)
                    self.need_there(Name(inner, node.attr), f"{module} line {node.lineno}")
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self.need(module, node.id)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self.follow(module, node)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.refuse_named_modules(source, node.lineno, node.value)
        for node in ast.walk(statement):  # annotations too, where they cost no more than an import line
            if isinstance(node, ast.Name) and node.id not in source.imports:
                self.name_for_types(source, node.id)

    def name_for_types(self, source: Source, name: str) -> None:
        """Import a name of another project's that only annotations use."""
        for number in source.binds.get(name, []):
            statement = source.statements[number]
            if isinstance(statement, (ast.Import, ast.ImportFrom)) and not is_ours(statement):
                source.imports[name] = (statement, next(alias for alias in statement.names if name_of(alias) == name))

    def module_of(self, source: Source, name: str) -> str | None:
        """The module of ours that a top-level name of another one stands for, by `from package import module`."""
        for number in source.binds.get(name, []):
            statement = source.statements[number]
            if isinstance(statement, ast.ImportFrom) and is_ours(statement) and not statement.level:
                alias = next(alias for alias in statement.names if name_of(alias) == name)
                package, inner = statement.module or "", f"{statement.module}.{alias.name}"
                if alias.name not in self.source(package).binds and is_module(inner):
                    return inner
        return None

    def need_there(self, name: Name, at: str) -> None:
        """Reach a name that must be there."""
        if name.name not in self.source(name.module).binds:
            raise FlattenError(f"{at}: {name.module} has no `{name.name}` at its top level")
        self.need(name.module, name.name)

    def need(self, module: str, name: str) -> None:
        """Reach whatever binds a name at the top of a module; names of functions and builtins are bound nowhere."""
        source = self.source(module)
        for number in source.binds.get(name, []):
            statement = source.statements[number]
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                alias = next(alias for alias in statement.names if name_of(alias) == name)
                source.imports[name] = (statement, alias)
                if self.module_of(source, name) is None:
                    self.follow(module, statement, name)
            else:
                self.reach(module, number)

    def follow(self, module: str, statement: Import, only: str | None = None) -> None:
        """Reach what an import of ours names."""
        for alias in statement.names if is_ours(statement) else []:
            if only in (None, name_of(alias)):
                found = self.origin(module, statement, alias)
                self.need(found.module, found.name)

    def origin(self, module: str, statement: Import, alias: ast.alias) -> Name:
        """Where an imported name is defined, through modules that only hand it on."""
        at = f"{module} line {statement.lineno}"
        if isinstance(statement, ast.Import) or statement.level or statement.module is None or alias.name == "*":
            raise FlattenError(f"{at}: write `from package.module import name`, which can be followed")
        given = self.source(statement.module)
        numbers = given.binds.get(alias.name)
        if numbers is None:
            raise FlattenError(f"{at}: {statement.module} has no `{alias.name}` at its top level")
        first = given.statements[numbers[0]]
        if isinstance(first, ast.ImportFrom) and is_ours(first):
            inner = next(other for other in first.names if name_of(other) == alias.name)
            return self.origin(given.module, first, inner)
        return Name(statement.module, alias.name)

    def rewritten(self, module: str, statement: Import, aliases: list[ast.alias], indent: str = "") -> list[str]:
        """Lines that import the same in the flat files."""
        if is_ours(statement):
            found = [(self.origin(module, statement, alias), name_of(alias)) for alias in aliases]
            lines = [f"from .{self.flat(name.module)} import {name.name} as {local}" for name, local in found]
            return [indent + re.sub(r"(\w+) as \1$", r"\1", line) for line in lines]
        line = ast.unparse(part(statement, aliases))
        names = [alias.name for alias in aliases] if isinstance(statement, ast.Import) else [statement.module or ""]
        if {name.split(".")[0] for name in names} <= THERE:
            return [indent + line]
        return [f"{indent}try:", f"{indent}    {line}", f"{indent}except ImportError:", f"{indent}    pass"]

    def written(self, module: str, header: str) -> str:
        """The text of a module's flat file."""
        source = self.source(module)
        text = "\n".join(f"# {line}" for line in header.format(module=module).splitlines())
        text += "\n\nfrom __future__ import annotations\n\n" + "\n".join(self.heading(source)) + "\n"
        for number in sorted(source.reached):
            text += "\n\n" + "\n".join(self.moved(source, number)) + "\n"
        return text

    def heading(self, source: Source) -> list[str]:
        """The import lines at the top of a flat file."""
        lines = []
        for name, (statement, alias) in source.imports.items():
            if inner := self.module_of(source, name):
                if not source.modules.get(name):
                    raise FlattenError(f"{source.module}: the module {inner} is used whole: import names of it")
                flat, some = self.flat(inner), min(source.modules[name])
                lines.append(f"from . import {flat} as {name}")
                lines.append(f"from .{flat} import {some} as _  # transformers copies files that are named like this")
            else:
                lines += self.rewritten(source.module, statement, [alias])
        return lines

    def moved(self, source: Source, number: int) -> list[str]:
        """The lines of a statement, with the imports inside it rewritten."""
        if number in source.shortened:
            return [source.shortened[number]]
        first, last = source.span(number)
        lines, end = [], first - 1
        imports = [
            node for node in ast.walk(source.statements[number]) if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        for node in sorted(imports, key=lambda node: node.lineno):
            lines += source.lines[end : node.lineno - 1]
            lines += self.rewritten(source.module, node, node.names, " " * node.col_offset)
            end = node.end_lineno or node.lineno
        return lines + source.lines[end:last]

    def refuse_named_modules(self, source: Source, line: int, text: str) -> None:
        """A text that is the name of a module of ours may be imported by it, which isn't followed."""
        if re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", text) and is_module(text):
            raise FlattenError(f"{source.module} line {line}: {text} is named in a text: import names of it")
