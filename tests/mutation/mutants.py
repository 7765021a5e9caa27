"""What is changed in a module: one expression or statement at a time, of its syntax tree.

A mutant is named by its function, the source line, and what becomes what: the name stays after edits elsewhere.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
PAIRS = (
    "min max, amin amax, argmin argmax, minimum maximum, any all, sum mean, zeros ones, zeros_like ones_like, sin cos, "
    "floor ceil, exp log, softmax log_softmax"
)
SWAPPED = {first: second for pair in PAIRS.split(", ") for first, second in (pair.split(), pair.split()[::-1])}
DROPPED = (
    *("detach", "abs", "square", "sqrt", "rsqrt", "sigmoid", "tanh", "relu", "softplus", "clamp", "clamp_min"),
    *("flip", "sort", "sorted", "reversed", "normalize", "round"),
)
SPOKEN = ("info", "warning", "error", "debug", "print", "say", "warn", "log", "tqdm", "manual_seed")
"""Statements that only report, or seed what draws anyway, aren't removed."""


@dataclass(frozen=True)
class Mutant:
    """Change `variant` of node `node` (in the order of ast.walk) of the module at `path`; all else describes it."""

    path: str
    node: int
    variant: int
    operator: str
    function: str
    line: int
    last_line: int
    text: str
    change: str
    at_import: bool
    number: int = 0

    @property
    def key(self) -> str:
        """Its name, free of line numbers."""
        return f"{self.path} {self.function} | {self.text} | {self.change} | {self.number}"


@cache
def source(path: Path) -> str:
    """A module's text when it was first read: a run goes on with what it began with."""
    return path.read_text()


def mutants(path: Path, root: Path) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source(path))
    lines = source(path).splitlines()
    nodes = list(ast.walk(tree))
    numbers = {id(node): number for number, node in enumerate(nodes)}
    found, seen = [], Counter[str]()
    for node, function, at_import in _mutable(tree):
        for variant, (operator, changed) in enumerate(_variants(node)):
            mutant = Mutant(
                path=str(path.relative_to(root)),
                node=numbers[id(node)],
                variant=variant,
                operator=operator,
                function=function,
                line=node.lineno,
                last_line=_last_line(node),
                text=lines[node.lineno - 1].strip(),
                change=f"{_shown(node)} -> {_shown(changed)}",
                at_import=at_import,
            )
            number = seen[mutant.key]
            seen[mutant.key] += 1
            found.append(Mutant(**{**vars(mutant), "number": number}))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.node, mutant.variant))


def _last_line(node: ast.expr | ast.stmt) -> int:
    last = node.test if isinstance(node, ast.If | ast.While) else node
    return last.end_lineno or last.lineno


def mutated(mutant: Mutant, root: Path) -> CodeType:
    """The code of the module with this change, lines and names as in the original."""
    path = root / mutant.path
    tree = ast.parse(source(path))
    nodes = list(ast.walk(tree))
    node = nodes[mutant.node]
    changed = list(_variants(node))[mutant.variant][1]
    ast.copy_location(changed, node)
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, field, changed)
            elif isinstance(value, list) and any(entry is node for entry in value):
                value[[entry is node for entry in value].index(True)] = changed
    return compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)


def _shown(node: ast.AST) -> str:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Constant):
        return "pass"
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _mutable(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str, bool]]:
    """(node, name of its function, whether it runs at import) of all that may be changed."""

    def visit(
        node: ast.AST, names: tuple[str, ...], at_import: bool
    ) -> Iterator[tuple[ast.expr | ast.stmt, str, bool]]:
        if isinstance(node, ast.expr | ast.stmt):
            yield node, ".".join(names) or "module", at_import
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return  # messages, and checks of our own
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Call) and _speaks(node.value):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            outer, inner = at_import, isinstance(node, ast.ClassDef) and at_import
            for default in [*node.args.defaults, *node.args.kw_defaults] if isinstance(node, ast.FunctionDef) else []:
                if default is not None:
                    yield from visit(default, (*names, node.name), outer)
            for child in node.body:
                yield from visit(child, (*names, node.name), inner)
            return
        if _declares(node):
            return
        skipped = ("annotation", "returns", "type_params")
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and field not in skipped:
                    yield from visit(child, names, at_import)

    yield from visit(tree, (), True)


def _speaks(value: ast.Constant | ast.Call) -> bool:
    if isinstance(value, ast.Constant):
        return True
    name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return name in SPOKEN


def _declares(node: ast.AST) -> bool:
    """Names of types and of what a module exports, and checks of our own."""
    if isinstance(node, ast.keyword):
        return node.arg == "strict"  # a check of our own, as an assertion
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("cast", "TypeVar")


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(operator, changed copy) of one node."""
    if isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in COMPARED[type(op)]:
                changed = copy.deepcopy(node)
                changed.ops[place] = other()
                yield "comparison", changed
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED and not _is_type(node):
        changed = copy.deepcopy(node)
        changed.op = COMPUTED[type(node.op)]()
        yield "arithmetic", changed
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in COMPUTED:
            changed = copy.deepcopy(node)
            changed.op = COMPUTED[type(node.op)]()
            yield "arithmetic", changed
        yield "statement", _never(node)
    elif isinstance(node, ast.BoolOp):
        changed = copy.deepcopy(node)
        changed.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield "and/or", changed
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield "not/minus", copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.BoolOp | ast.Constant):
            changed = copy.copy(node)
            changed.test = ast.UnaryOp(ast.Not(), node.test)
            yield "condition", changed
    elif isinstance(node, ast.Return):
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Slice):
        yield from _slices(node)
    elif isinstance(node, ast.Expr | ast.Raise):
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            return  # a method that subclasses write
        if not (isinstance(node, ast.Expr) and (not isinstance(node.value, ast.Call) or _speaks(node.value))):
            yield "statement", _never(node)
    elif isinstance(node, ast.Assign):
        if any(isinstance(target, ast.Subscript) for target in node.targets):
            yield "statement", _never(node)
    elif isinstance(node, ast.Continue | ast.Break):
        yield "statement", ast.Break() if isinstance(node, ast.Continue) else ast.Continue()


def _never(node: ast.stmt) -> ast.If:
    """Removes a statement, but not what its function takes from outside (`super()` needs `__class__`)."""
    return ast.If(ast.Constant(False), [copy.deepcopy(node)], [])


def _is_type(node: ast.BinOp) -> bool:
    """`A | None` of isinstance and of aliases."""
    return isinstance(node.op, ast.BitOr) and all(
        isinstance(side, ast.Name | ast.Attribute | ast.Subscript)
        or (isinstance(side, ast.Constant) and side.value is None)
        or (isinstance(side, ast.BinOp) and _is_type(side))
        for side in (node.left, node.right)
    )


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield "boolean", ast.Constant(not value)
    elif isinstance(value, int):
        yield "number", ast.Constant(value + 1)
        yield "number", ast.Constant(value - 1)
    elif isinstance(value, float):
        yield "number", ast.Constant(value * 2 or 1.0)
        yield "number", ast.Constant(value / 2 or -1.0)


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in SWAPPED:
        changed = copy.deepcopy(node)
        if isinstance(changed.func, ast.Attribute):
            changed.func.attr = SWAPPED[name]
        elif isinstance(changed.func, ast.Name) and name in ("min", "max", "any", "all"):
            changed.func.id = SWAPPED[name]
        if ast.dump(changed) != ast.dump(node):
            yield "call", changed
    if name in DROPPED:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if owner is not None and not (
            isinstance(owner, ast.Name) and owner.id in ("torch", "np", "math", "functional", "F")
        ):
            yield "call", copy.deepcopy(owner)
        elif node.args and not isinstance(node.args[0], ast.Starred):
            yield "call", copy.deepcopy(node.args[0])


def _slices(node: ast.Slice) -> Iterator[tuple[str, ast.AST]]:
    for field in ("lower", "upper"):
        bound = getattr(node, field)
        if bound is not None and not isinstance(bound, ast.Constant | ast.UnaryOp):
            changed = copy.deepcopy(node)
            setattr(changed, field, ast.BinOp(copy.deepcopy(bound), ast.Sub(), ast.Constant(1)))
            yield "slice", changed
