"""Reduce answers to their structure, in which copies stay alike although they look different.

    a = x.abs().max()  # largest          largest = torch.max(abs(x))

The parts of a program are the subtrees of its syntax tree. Two parts are equal if they differ only
in what is easily changed: names of variables and helpers, comments, docstrings, type annotations,
error messages, the order of statements and operands, `x += 1` or `x = x + 1`, `a > b` or `b < a`,
`torch.max(x)` or `x.max()`, `1_000` or `1000`. A loop and a comprehension over the same values have
the part in common that says what they run over.

The parts of a text are its sequences of WORDS words.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import re
from collections.abc import Iterable

from workshop.grading.answers import parsed

# The smallest part of a program that counts, in nodes of the syntax tree.
MIN_NODES = 4
# Number of words in a part of a text.
WORDS = 4

# The parts of an answer, each with the line in which it begins first.
Parts = dict[int, int]
# The number of a part, and its size in nodes of the syntax tree.
Part = tuple[int, int]

MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.Lt, ast.GtE: ast.LtE}
NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.In: ast.NotIn,  # codespell:ignore
    ast.NotIn: ast.In,  # codespell:ignore
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
COMMUTATIVE = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor)
# Fields of a syntax tree that a change of style changes.
STYLE = {"annotation", "ctx", "decorator_list", "kind", "returns", "type_comment", "type_params"}
# Fields whose items may be written in another order.
UNORDERED = {"body", "finalbody", "keywords", "orelse"}
# A definition is no part, because it consists of statements, which are parts.
WHOLES = (ast.Module, ast.FunctionDef, ast.ClassDef, ast.arguments)


class Structures:
    """The parts of many answers, numbered so that equal parts have the same number."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}

    def of_code(self, source: str) -> Parts:
        """Return the parts of a program; if it can't be parsed, its sequences of words."""
        if tree := parsed(source):
            with contextlib.suppress(RecursionError):
                return _Numbering(self._numbers, _Canonical().visit(tree)).parts
        return self.of_text(source)

    def of_text(self, source: str) -> Parts:
        """Return the parts of a text."""
        lines = enumerate(source.casefold().splitlines(), 1)
        words = [(word, line) for line, text in lines for word in re.findall(r"\w+", text)]
        parts: Parts = {}
        for start in range(len(words) - WORDS + 1):
            key = tuple(word for word, _ in words[start : start + WORDS])
            parts.setdefault(self._numbers.setdefault(key, len(self._numbers)), words[start][1])
        return parts


class _Canonical(ast.NodeTransformer):
    """Write what can be written in several ways in one way."""

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        read = copy.copy(node.target)
        value = ast.copy_location(ast.BinOp(read, node.op, node.value), node)
        return self.visit(ast.copy_location(ast.Assign([node.target], value), node))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.visit(ast.copy_location(ast.Assign([node.target], node.value), node))

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if len(node.ops) == 1 and (mirrored := MIRRORED.get(type(node.ops[0]))):
            node.left, node.comparators = node.comparators[0], [node.left]
            node.ops = [mirrored()]
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            inner.ops = [NEGATED[type(inner.ops[0])]()]
            return self.visit(inner)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Pass(self, _: ast.Pass) -> None:
        return None


class _Numbering:
    """Number the subtrees of a tree."""

    def __init__(self, numbers: dict[tuple[object, ...], int], tree: ast.AST):
        self.parts: Parts = {}
        self._numbers = numbers
        self._local = set(_bound_names(tree))
        self._visit(tree, 1)

    def _part(self, line: int, *key: object, children: Iterable[Part]) -> Part:
        """Return a part's number and its number of nodes, given those of its children."""
        children = list(children)
        whole = (*key, *(number for number, _ in children))
        number = self._numbers.setdefault(whole, len(self._numbers))
        nodes = 1 + sum(size for _, size in children)
        if nodes >= MIN_NODES and key[0] not in WHOLES:
            self.parts.setdefault(number, line)
        return number, nodes

    def _visit(self, node: ast.AST, line: int) -> Part:
        line = getattr(node, "lineno", line)

        def visited(*nodes: ast.AST) -> list[Part]:
            return [self._visit(each, line) for each in nodes]

        match node:
            case ast.Name(id=name):
                key = ("local",) if name in self._local else ("name", name)
                return self._part(line, *key, children=())
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return self._part(line, "number", value, children=())
            case ast.BinOp(op=op) if isinstance(op, COMMUTATIVE):
                operands = sorted(visited(node.left, node.right))
                return self._part(line, type(op), children=operands)
            case ast.Compare(ops=[ast.Eq() | ast.NotEq() as op]):
                operands = sorted(visited(node.left, *node.comparators))
                return self._part(line, type(op), children=operands)
            case ast.BoolOp():
                return self._part(line, type(node.op), children=sorted(visited(*node.values)))
            case ast.Call(func=ast.Attribute(value=owner, attr=method)):
                is_module = isinstance(owner, ast.Name) and owner.id not in self._local
                values = visited(*(() if is_module else (owner,)), *node.args)
                return self._part(line, method, children=values + sorted(visited(*node.keywords)))
            case ast.For() | ast.comprehension():
                head = self._part(line, "for", children=visited(node.target, node.iter))
                rest = node.body + node.orelse if isinstance(node, ast.For) else node.ifs
                if isinstance(node, ast.comprehension) and not rest:
                    return head
                return self._part(line, type(node), children=[head, *sorted(visited(*rest))])
        return self._any_node(node, line)

    def _any_node(self, node: ast.AST, line: int) -> Part:
        key: list[object] = [type(node)]
        children: list[Part] = []
        for name, value in ast.iter_fields(node):
            if name in STYLE:
                continue
            if isinstance(value, ast.AST):
                children.append(self._visit(value, line))
            elif isinstance(value, list):
                items = [self._visit(item, line) for item in value if isinstance(item, ast.AST)]
                children += sorted(items) if name in UNORDERED else items
            elif value not in self._local:
                key.append(value)
        return self._part(line, *key, children=children)


def _bound_names(tree: ast.AST) -> Iterable[str]:
    """Yield the names that a program gives to variables, parameters, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
