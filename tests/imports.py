"""Who imports whom, read from the code: files, the rooms that they lie in, and the table of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("launch", "data", "stage1_tokenizer", "stage2_prior")
"""From the ground up."""
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
CONFIGURATION = ("config", "media")
"""Modules at the top of a package that aren't commands, each a room of its own."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Import:
    """One import of a module of ours."""

    source: str
    target: str
    line: int
    inside: bool
    """Whether it stands inside a function."""

    def __str__(self) -> str:
        return f"{MODULES[self.source].relative_to(ROOT)}:{self.line} imports {self.target}"


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax."""
    return ast.parse(path.read_text())


def room(module: str) -> str:
    """The room of a module: its folder. At the top of a package: `config` or `media`; else `commands`."""
    package, *folders = MODULES[module].relative_to(ROOT).parent.parts
    name = module.rpartition(".")[2]
    return f"{package}/{'/'.join(folders)}" if folders else f"{package}/{name if name in CONFIGURATION else 'commands'}"


def is_command(module: str) -> bool:
    """Whether a module may import inside functions: it lies at the top of a package."""
    return room(module).endswith("/commands")


@cache
def imports() -> list[Import]:
    """Every import of ours, wherever in a file: at the top, in functions and for types."""
    return [found for module, path in MODULES.items() for found in _visited(module, tree(path), inside=False)]


def _visited(module: str, node: ast.AST, *, inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        within = inside or isinstance(child, Function)
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for target in _targets(module, child):
                yield Import(module, target, child.lineno, within)
        yield from _visited(module, child, inside=within)


def _targets(module: str, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names if alias.name in MODULES)
        return
    assert statement.level == 0, f"{module} imports relatively"
    base = statement.module or ""
    if base.partition(".")[0] in PACKAGES:
        assert base in MODULES or (ROOT / base.replace(".", "/")).is_dir(), f"{module} imports {base}: there is none"
        targets = {_home(base, alias.name) for alias in statement.names}
        yield from sorted(targets - {module, None} if module != base else targets - {None})  # type: ignore[type-var]


def _home(base: str, name: str) -> str | None:
    """The module that `from base import name` means; of a package's own public names, where they are defined."""
    if f"{base}.{name}" in MODULES:
        return f"{base}.{name}"
    if base in PACKAGES:
        for statement in ast.walk(tree(MODULES[base])):
            if isinstance(statement, ast.ImportFrom) and name in [alias.name for alias in statement.names]:
                return statement.module
    return base if base in MODULES else None


def files() -> Graph:
    """Each module with those that it imports."""
    graph: Graph = {module: set() for module in MODULES}
    for found in imports():
        graph[found.source].add(found.target)
    return graph


def rooms() -> Graph:
    """Each room with those that it imports. A package's own file belongs to no room: it only gives public names."""
    graph: Graph = defaultdict(set)
    for module in MODULES:
        if module not in PACKAGES:
            graph[room(module)] |= set()
    for found in imports():
        if found.source not in PACKAGES and room(found.source) != room(found.target):
            graph[room(found.source)].add(room(found.target))
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Groups of more than one node of which each reaches each (Tarjan's strongly connected components)."""
    reached = {node: reach(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in graph}
    return sorted(list(group) for group in groups if group)


def reach(graph: Graph, start: str) -> set[str]:
    """All that `start` imports, directly or not."""
    found: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found


def allowed() -> Graph:
    """The table of docs/architecture.md: each room with those that it may import."""
    section = (ROOT / "docs" / "architecture.md").read_text().split("\n## What each room may import\n", 1)[1]
    rows = re.findall(r"^\| `([\w/]+)` \| (.*?) ?\|$", section.split("\n## ", 1)[0], re.MULTILINE)
    names = [name for name, _ in rows]
    assert len(set(names)) == len(names), "a room stands in the table twice"
    return {
        name: {other for word in re.findall(r"`([\w/*]+)`", cell) for other in _meant(name, word, names)}
        for name, cell in rows
    }


def _meant(name: str, word: str, names: list[str]) -> list[str]:
    """Rooms that a word of the table stands for: one of the same package, of another, or PACKAGE/* but its commands."""
    package, _, rest = word.partition("/")
    if rest == "*":
        whole = [other for other in names if other.startswith(f"{package}/")]
        return whole[: whole.index(f"{package}/commands")]
    whole = word if package in PACKAGES else f"{name.partition('/')[0]}/{word}"
    assert whole in names, f"`{word}` in the row of {name} is no room of the table"
    return [whole]
