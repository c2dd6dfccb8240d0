"""Rewrite a Python answer as somebody else might have written it; it still computes the same.

    edited(source, draw, habits)   as another student, whose habits decide which edits are made
    renamed, reworded, rearranged, relooped (source, draw)
                                   as somebody who hides that the answer is a copy

The functions change the syntax tree, so comments and line breaks are lost.
"""

import ast
import copy
import itertools
import re

# Names that students like.
WORDS = re.findall(
    r"\w+",
    """
    acc answer arr base blk block buf chunk col cols cnt count cur data delta elem entry err factor
    flat found group idx inner item key keys kind last left lst mask mid names new num out part
    parts piece pos ratio raw rest res result right row rows sel share step table tail tmp tot total
    val value values whole
    """,
)
DEFINITIONS = ast.FunctionDef | ast.ClassDef
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# In these expressions, a part is not evaluated exactly once.
LAZY = COMPREHENSIONS | ast.Lambda | ast.IfExp | ast.BoolOp

# Each expression, in which capital letters stand for any expressions, can become the other one.
EXPRESSIONS = [
    ("X.square()", "X ** 2"),
    ("X ** 2", "X * X"),
    ("X.flatten()", "X.reshape(-1)"),
    ("X.amax(dim=D)", "X.max(dim=D).values"),
    ("X.float()", "X.to(torch.float32)"),
    ("X.item()", "float(X)"),
    ("X.abs()", "abs(X)"),
    ("X.numel()", "math.prod(X.shape)"),
    ("X[:, None]", "X.unsqueeze(1)"),
    ("math.ceil(X / Y)", "-(-X // Y)"),
    ("math.ceil(X / Y)", "(X + Y - 1) // Y"),
    ("X if Y else Z", "Z if not Y else X"),
    ("X * Y", "Y * X"),
    ("len(X) == 0", "not len(X)"),
    ("min(X, Y) < 1", "X < 1 or Y < 1"),
    ("min(X, Y, Z) < 1", "X < 1 or Y < 1 or Z < 1"),
    ("max(X, Y)", "X if X > Y else Y"),
    ("sum(X)", "sum(list(X))"),
]
STATEMENTS = ("name result", "extract", "inline", "loop", "split or", "split =", "guard", "print")


def habits(draw):
    """Return how often a student makes each edit; most students nearly always or never do."""
    return {edit: draw.betavariate(0.4, 0.8) for edit in (*EXPRESSIONS, *STATEMENTS)}


def edited(source, draw, habits):
    """Make a student's edits, and choose other names."""
    tree = _Edits(draw, habits).visit(ast.parse(source))
    return renamed(_source(tree), draw)


# --- disguises ------------------------------------------------------------------------------------


def renamed(source, draw):
    """Give each local variable another name."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    old = [name for name in dict.fromkeys(_stored(tree)) if name not in parameters]
    free = draw.sample(sorted({*WORDS} - names), len({*WORDS} - names))
    new = dict(zip(old, itertools.chain(free, (f"x{n}" for n in itertools.count())), strict=False))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = new.get(node.id, node.id)
    return _source(tree)


def reworded(source, draw):
    """Write other docstrings, comments, blank lines and error messages."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Call() as error):
                error.args = [ast.Constant(f"this input is wrong ({draw.randint(1, 99)})")]
            case ast.FunctionDef() | ast.ClassDef() if ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant(f"My answer ({draw.randint(1, 99)})."))
    lines = []
    for line in _source(tree).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        comment = f"{indent}# step {draw.randint(1, 99)}"
        lines += [*draw.choice([[], [], [comment], [""]]), line]
    return "\n".join(lines)


def rearranged(source, draw):
    """Reorder definitions, independent statements, and operands; write `x += 1` as `x = x + 1`."""
    tree = _Mirror().visit(ast.parse(source))
    for body in _bodies(tree):
        for _ in range(3):
            for i in range(len(body) - 1):
                if draw.random() < 0.5 and _independent(*body[i : i + 2]):
                    body[i : i + 2] = body[i + 1], body[i]
    return _source(tree)


def relooped(source, draw):
    """Write each loop that fills a list or dict as a comprehension, and the other way around."""
    tree = ast.parse(source)
    for body in _bodies(tree):
        new = []
        for node in body:
            if comprehension := _as_comprehension(new[-1] if new else None, node):
                new[-1] = comprehension
            else:
                new += _as_loop(node) or [node]
        body[:] = new
    return _source(tree)


class _Mirror(ast.NodeTransformer):
    def visit_Compare(self, node):
        mirrored = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
        if len(node.ops) == 1 and (operator := mirrored.get(type(node.ops[0]))):
            return ast.Compare(node.comparators[0], [operator()], [node.left])
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult):
            node.left, node.right = node.right, node.left
        return node

    def visit_AugAssign(self, node):
        if not isinstance(node.op, ast.Add):
            return node
        read = _parsed(ast.unparse(node.target))
        return ast.Assign([node.target], ast.BinOp(read, node.op, node.value))


# --- edits ----------------------------------------------------------------------------------------


class _Edits(ast.NodeTransformer):
    def __init__(self, draw, habits):
        self.draw, self.habits, self.names = draw, habits, (f"y{n}" for n in itertools.count())

    def makes(self, edit):
        return self.draw.random() < self.habits[edit]

    def visit(self, node):
        if isinstance(node, ast.Raise):
            return node
        node = self.generic_visit(node)
        if isinstance(node, ast.expr):
            return self.expression(node)
        for name in ("body", "orelse"):
            if isinstance(body := getattr(node, name, None), list):
                setattr(node, name, self.body(node, body))
        return node

    def expression(self, node):
        for edit, (old, new) in PATTERNS.items():
            if (found := _match(old, node)) is not None and self.makes(edit):
                return _fill(copy.deepcopy(new), found)
        return node

    def body(self, owner, body):
        new = []
        if isinstance(owner, ast.FunctionDef):
            docstring = ast.get_docstring(owner) is not None
            new, body = body[:docstring], body[docstring:]
            names = [argument.arg for argument in owner.args.args if argument.arg != "self"]
            if names and self.makes("guard"):
                new += self.guard(self.draw.choice(names))
        for node in body:
            new += self.statement(node)
        return self.inlined(new)

    def guard(self, name):
        """Return a check that every valid argument passes."""
        kind = self.draw.choice(["bytes", "complex", "range", "set"])
        check = f"isinstance({name}, {kind})"
        forms = [f"if {check}:\n    raise TypeError('wrong type')", f"assert not {check}"]
        return ast.parse(self.draw.choice(forms)).body

    def statement(self, node):
        """Return the statements that replace a statement."""
        match node:
            case ast.If(ast.BoolOp(ast.Or(), tests), [ast.Raise()], []) if self.makes("split or"):
                return [ast.If(test, copy.deepcopy(node.body), []) for test in tests]
            case ast.Assign([ast.Tuple(targets)], ast.Tuple(values)) if self.makes("split ="):
                split = [ast.Assign([t], value) for t, value in zip(targets, values, strict=True)]
                if all(itertools.starmap(_independent, itertools.combinations(split, 2))):
                    return split
        if (loop := _as_loop(node)) and self.makes("loop"):
            return loop
        before = []
        if isinstance(node, ast.Assign | ast.Return) and node.value and self.makes("extract"):
            before = self.extracted(node)
        if isinstance(node, ast.Return) and _is_long(node.value) and self.makes("name result"):
            name = next(self.names)
            before.append(ast.Assign([ast.Name(name, ast.Store())], node.value))
            node = ast.Return(ast.Name(name, ast.Load()))
        printed = []
        match node:
            case ast.Assign([ast.Name(name)]) if self.makes("print") and self.draw.random() < 0.1:
                printed = ast.parse(f"print({name})").body
        return [*before, node, *printed]

    def extracted(self, node):
        """Move a part of a statement's value into an assignment before the statement."""
        if isinstance(node.value, LAZY):
            return []
        lazy = {id(n) for c in ast.walk(node.value) if isinstance(c, LAZY) for n in ast.walk(c)}
        spots = [
            (parent, field)
            for parent in ast.walk(node.value)
            for field, part in ast.iter_fields(parent)
            if _is_long(part) and id(part) not in lazy
        ]
        if not spots:
            return []
        parent, field = self.draw.choice(spots)
        name, part = next(self.names), getattr(parent, field)
        setattr(parent, field, ast.Name(name, ast.Load()))
        return [ast.Assign([ast.Name(name, ast.Store())], part)]

    def inlined(self, body):
        """Move values that are used once, in the next statement, into this statement."""
        new = []
        for position, node in enumerate(body):
            match new[-1:], node:
                case [ast.Assign([ast.Name(name)], value)], ast.Assign() | ast.Return():
                    lazy = any(isinstance(part, LAZY) for part in ast.walk(node))
                    used_once = _uses(body[position:], name) == _uses([node.value], name) == 1
                    if used_once and not lazy and self.makes("inline"):
                        new[-1] = _fill(node, {name: value})
                        continue
            new.append(node)
        return new


# --- syntax trees ---------------------------------------------------------------------------------


def _source(tree):
    return ast.unparse(ast.fix_missing_locations(tree))


def _parsed(expression):
    return ast.parse(expression, mode="eval").body


def _stored(tree):
    """Return the names to which a tree assigns."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [node.id for node in names if isinstance(node.ctx, ast.Store)]


def _uses(nodes, name):
    """Return how often some nodes contain a name."""
    names = [part.id for node in nodes if node for part in ast.walk(node) if hasattr(part, "id")]
    return names.count(name)


def _is_long(node):
    return isinstance(node, ast.BinOp | ast.Call | ast.Dict | ast.Subscript)


def _bodies(tree):
    """Return the lists of statements of a tree."""
    return [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]


PATTERNS = {edit: tuple(map(_parsed, edit)) for edit in EXPRESSIONS}


def _match(pattern, node, found=None):
    """Return what the letters of a pattern stand for in a node; None if it doesn't match."""
    found = {} if found is None else found
    if isinstance(pattern, ast.Name) and pattern.id in "XYZD":
        same = found.setdefault(pattern.id, node)
        return found if same is node or ast.dump(same) == ast.dump(node) else None
    if type(pattern) is not type(node):
        return None
    for name, part in ast.iter_fields(pattern):
        parts, others = (p if isinstance(p, list) else [p] for p in (part, getattr(node, name)))
        if name != "ctx" and len(parts) != len(others):
            return None
        for one, other in zip(parts, others, strict=True):
            if not isinstance(one, ast.AST) and one != other:
                return None
            if isinstance(one, ast.AST) and _match(one, other, found) is None:
                return None
    return found


def _fill(node, values):
    """Replace the names in a node by expressions."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node):
            is_read = node.id in values and isinstance(node.ctx, ast.Load)
            return copy.deepcopy(values[node.id]) if is_read else node

    return Fill().visit(node)


def _independent(first, second):
    """Return whether two statements may be swapped."""
    if isinstance(first, DEFINITIONS) and isinstance(second, DEFINITIONS):
        return True
    if not (isinstance(first, ast.Assign) and isinstance(second, ast.Assign)):
        return False
    reads = [{n.id for n in ast.walk(each) if isinstance(n, ast.Name)} for each in (first, second)]
    # An assignment to x[0] or x.y changes x.
    stores = [
        {n.id for target in each.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        for each in (first, second)
    ]
    return not (stores[0] & reads[1] or stores[1] & reads[0])


def _as_loop(node):
    """Return the statements that compute a comprehension, or a returned sum, in a loop."""
    match node:
        case ast.Assign([ast.Name(name)], ast.ListComp() | ast.DictComp() as value):
            after = []
        case ast.Return(ast.ListComp() | ast.DictComp() as value):
            name, after = "result", [ast.Return(ast.Name("result", ast.Load()))]
        case ast.Return(ast.Call(ast.Name("sum"), [ast.GeneratorExp() as value])):
            name, after = "result", [ast.Return(ast.Name("result", ast.Load()))]
        case _:
            return None
    if len(value.generators) != 1:
        return None
    (generator,) = value.generators
    match value:
        case ast.ListComp():
            start, add = "[]", f"{name}.append({ast.unparse(value.elt)})"
        case ast.DictComp():
            start, add = "{}", f"{name}[{ast.unparse(value.key)}] = {ast.unparse(value.value)}"
        case _:
            start, add = "0", f"{name} += {ast.unparse(value.elt)}"
    body = ast.parse(add).body
    for test in reversed(generator.ifs):
        body = [ast.If(test, body, [])]
    loop = ast.For(generator.target, generator.iter, body, [])
    return [*ast.parse(f"{name} = {start}").body, loop, *after]


def _as_comprehension(before, loop):
    """Return the assignment that replaces an empty list or dict and the loop that fills it."""
    match before, loop:
        case ast.Assign([ast.Name(name)], ast.List([]) | ast.Dict([])), ast.For(body=[inner]):
            tests = []
            if isinstance(inner, ast.If) and len(inner.body) == 1 and not inner.orelse:
                tests, inner = [inner.test], inner.body[0]
        case _:
            return None
    generator = ast.comprehension(loop.target, loop.iter, tests, 0)
    match inner:
        case ast.Expr(ast.Call(ast.Attribute(ast.Name(to), "append"), [element])) if to == name:
            return ast.Assign(before.targets, ast.ListComp(element, [generator]))
        case ast.Assign([ast.Subscript(ast.Name(to), key)], element) if to == name:
            return ast.Assign(before.targets, ast.DictComp(key, element, [generator]))
    return None
