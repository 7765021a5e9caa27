"""What released files leave out of settings: help texts and checks, which are for those who write them."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def unneeded(module: str, statement: ast.stmt) -> Iterator[ast.stmt]:
    """Parts of a class in a room called config: texts below fields, and `__post_init__` with what only it calls."""
    if module.split(".")[-2:-1] != ["config"] or not isinstance(statement, ast.ClassDef):
        return
    body = list(statement.body)
    for before, node in zip(statement.body, statement.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            body.remove(node)
            yield node
    while dropped := [node for node in body if isinstance(node, ast.FunctionDef) and _only_checks(node, body)]:
        body = [node for node in body if node not in dropped]
        yield from dropped


def _only_checks(method: ast.FunctionDef, body: list[ast.stmt]) -> bool:
    """Whether it is `__post_init__`, or private and not named in the rest of the class."""
    others = [node for node in body if node is not method]
    named = {node.attr for other in others for node in ast.walk(other) if isinstance(node, ast.Attribute)}
    private = method.name.startswith("_") and not method.name.startswith("__")
    return method.name == "__post_init__" or (private and method.name not in named)
