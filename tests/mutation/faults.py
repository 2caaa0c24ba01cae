"""Small faults that a source file could have: one changed operator, number, argument or statement each."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A node by the fields that lead to it from the module, with its place where a field is a list.
Path = tuple[tuple[str, int | None], ...]

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
# Methods that give their object in another form, so that it would do without them, if wrongly.
_METHODS = {
    "detach", "clamp", "clamp_min", "mean", "abs", "sqrt", "square", "exp", "log", "flip", "flatten", "strip", "lower",
    "removeprefix", "removesuffix",
}  # fmt: skip
# Without these the file could not be loaded, which says nothing of the tests.
_NEEDED_DECORATORS = ("dataclass", "property", "classmethod", "staticmethod", "abstractmethod")
_SKIPPED_FIELDS = {"annotation", "returns", "names", "bases", "ctx"}
_NO_CONTEXT = "__import__('contextlib').nullcontext()"


@dataclass(frozen=True)
class Fault:
    """``was`` became ``now``: an expression, a statement, or nothing for a decorator that is left out.

    ``function`` is the outermost one around it (``Class.method``), empty in what runs when the file is loaded.
    """

    path: Path
    line: int
    function: str
    was: str
    now: str

    def in_words(self, file: str) -> str:
        """On one line, with the place in ``file``."""
        was, now = (" ".join(text.split()) for text in (self.was, self.now or "nothing"))
        return f"{file}:{self.line} in {self.function or 'the module'}: `{was}` became `{now}`"


def faults(source: str) -> list[Fault]:
    """All that are known for a file, from its first line to its last."""
    return list(_faults(ast.parse(source), (), "", ""))


def with_fault(source: str, fault: Fault) -> str:
    """The file with ``fault`` in it, without comments."""
    node: Any = (tree := ast.parse(source))
    for field, place in fault.path[:-1]:
        node = getattr(node, field) if place is None else getattr(node, field)[place]
    field, place = fault.path[-1]
    if not fault.now:
        del getattr(node, field)[place]
        return ast.unparse(tree)
    new: Any = ast.parse(fault.now).body[0]
    old = getattr(node, field) if place is None else getattr(node, field)[place]
    new = new if isinstance(old, ast.stmt) else new.value
    if place is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[place] = new
    return ast.unparse(tree)


def _faults(node: ast.AST, path: Path, scope: str, function: str) -> Iterator[Fault]:
    """``scope``: names of the classes around it, each with a point behind it."""
    if _says_nothing(node):
        return
    for below, old, new in _alternatives(node):
        now = "" if new is None else ast.unparse(ast.fix_missing_locations(new))
        was = f"@{ast.unparse(old)}" if new is None else ast.unparse(old)
        yield Fault((*path, *below), old.lineno, function, was, now)
    if isinstance(node, ast.Raise):
        return
    inside = function
    if isinstance(node, ast.FunctionDef):
        inside = function or scope + node.name
    elif isinstance(node, ast.ClassDef):
        scope += f"{node.name}."
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED_FIELDS:
            continue
        # Decorators run, and defaults are computed, when the file is loaded.
        within = function if field in ("args", "decorator_list") else inside
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield from _faults(child, (*path, (field, place)), scope, within)


def _says_nothing(node: ast.AST) -> bool:
    """Texts for people, imports, and what is there for types."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Expr) and ast.unparse(node).startswith(("log.", "logging.", "print(", "warnings.")):
        return True
    return isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert)


def _alternatives(node: ast.AST) -> Iterator[tuple[Path, ast.AST, ast.AST | None]]:
    """(path below ``node``, what is there, what could be there by mistake, ``None`` for nothing)."""
    for new in _other_nodes(node):
        yield (), node, new
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield (("test", None),), test, ast.UnaryOp(ast.Not(), test)
        case ast.With(items=items):
            for place, item in enumerate(items):
                if item.optional_vars is None:
                    yield (("items", place), ("context_expr", None)), item.context_expr, ast.parse(_NO_CONTEXT).body[0]
        case ast.FunctionDef() | ast.ClassDef():
            for place, decorator in enumerate(node.decorator_list):
                if not any(name in ast.unparse(decorator) for name in _NEEDED_DECORATORS):
                    yield (("decorator_list", place),), decorator, None


def _other_nodes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _OPERATORS:
            yield _changed(node, ops=[_OPERATORS[type(operator)]()])
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.AugAssign(op=operator) if (
            type(operator) in _OPERATORS
        ):
            yield _changed(node, op=_OPERATORS[type(operator)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float() as value):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call():
            yield from _other_calls(node)
        case ast.Subscript(slice=ast.Slice() as part):
            for name in ("lower", "upper"):
                if getattr(part, name) is not None:
                    yield _changed(node, slice=_changed(part, **{name: None}))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Assign(targets=[ast.Attribute()]):
            yield ast.Pass()
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    for left_out in node.keywords:
        if left_out.arg is not None:
            yield _changed(node, keywords=[keyword for keyword in node.keywords if keyword is not left_out])
    if len(node.args) > 1 and not any(isinstance(value, ast.Starred) for value in node.args[:2]):
        yield _changed(node, args=[node.args[1], node.args[0], *node.args[2:]])
    match node.func:
        case ast.Name(id=name) if name in _FUNCTIONS:
            yield _changed(node, func=ast.Name(_FUNCTIONS[name], ast.Load()))
        case ast.Attribute(value=value, attr=name) if name in _METHODS:
            yield value


def _changed(node: Any, **fields: Any) -> Any:
    """A copy with other ``fields``."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
