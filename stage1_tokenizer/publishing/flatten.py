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
from typing import NamedTuple

from stage1_tokenizer.publishing.syntax import (
    OURS,
    FlattenError,
    Import,
    Source,
    for_types_only,
    is_module,
    is_ours,
    is_text,
    name_of,
    nodes,
)

THERE = frozenset({"torch", "numpy", "transformers", "safetensors", "huggingface_hub"}) | sys.stdlib_module_names
"""What is installed wherever transformers and torch are; the flat files may import nothing else."""

RULE = "write `from package.module import name` at the top of the file, which can be followed"


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

    def import_line(self, module: str, statement: Import, alias: ast.alias) -> str:
        """The line that imports the same in the flat files."""
        if is_ours(statement):
            origin, local = self.origin(module, statement, alias), name_of(alias)
            renamed = "" if origin.name == local else f" as {local}"
            return f"from .{self.flat(origin.module)} import {origin.name}{renamed}"
        package = alias.name if isinstance(statement, ast.Import) else statement.module or ""
        if package.split(".")[0] not in THERE:
            raise FlattenError(f"{module} line {statement.lineno}: {package} isn't installed wherever transformers is")
        if isinstance(statement, ast.Import):
            return ast.unparse(ast.Import([alias]))
        return ast.unparse(ast.ImportFrom(statement.module, [alias], 0))

    def written(self, module: str, header: str) -> str:
        """The text of a module's flat file."""
        source = self.source(module)
        text = "\n".join(f"# {line}" for line in header.format(module=module).splitlines())
        imports = [self.import_line(module, statement, alias) for statement, alias in source.imports.values()]
        text += "\n\nfrom __future__ import annotations\n\n" + "\n".join(imports) + "\n"
        return text + "".join(f"\n\n{source.text(number)}\n" for number in sorted(source.reached))

    def refuse_named_modules(self, source: Source, line: int, text: str) -> None:
        """A text that is the name of a module of ours may be imported by it, which isn't followed."""
        if re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", text) and is_module(text):
            raise FlattenError(f"{source.module} line {line}: {text} is named in a text: import names of it")
