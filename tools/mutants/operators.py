"""Every operator mutant of a function: signs, comparisons, constants, terms dropped, calls exchanged."""

import ast
import copy
from collections import Counter
from collections.abc import Iterator

from tools.mutants.mutant import SOURCE, Mutant, Stale

OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
CALLS = {
    "minimum": "maximum",
    "maximum": "minimum",
    "min": "max",
    "max": "min",
    "argmax": "argmin",
    "argmin": "argmax",
    "sum": "mean",
    "mean": "sum",
    "var": "std",
    "std": "var",
    "cumsum": "cumprod",
    "cumprod": "cumsum",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "zeros": "ones",
    "ones": "zeros",
}
TRANSPARENT = {
    "stop_gradient",
    "abs",
    "exp",
    "log",
    "sqrt",
    "tanh",
    "clip",
}  # whose first argument may pass as it is
# Types, and what only speaks of faults; constants of keyword arguments named here change nothing but the speed.
SKIPPED = (ast.Assert, ast.Raise, ast.JoinedStr)
SPEED_ONLY = {"unroll", "axis", "in_axes", "out_axes", "has_aux", "unique_indices"}


def alternatives(node: ast.AST) -> Iterator[ast.expr]:
    """What could stand in place of an expression."""
    match node:
        case ast.BinOp(left, op, right):
            for other in OPERATORS.get(type(op), ()):
                yield ast.BinOp(left, other(), right)
            if not isinstance(op, ast.MatMult):
                yield left
                yield right
        case ast.UnaryOp(ast.USub() | ast.Invert() | ast.Not(), operand):
            yield operand
        case ast.Compare(left, [op], [right]):
            for other in OPERATORS.get(type(op), ()):
                yield ast.Compare(left, [other()], [right])
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)][0](), values)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Call(ast.Attribute(_, "where"), [_, yes, no]):
            yield yes
            yield no
        case ast.Call(ast.Attribute(module, name), [first, *_]):
            if name in CALLS:
                yield ast.Call(ast.Attribute(module, CALLS[name]), node.args, node.keywords)
            if name in TRANSPARENT:
                yield first
        case ast.Call(ast.Attribute(module, name), []) if name in CALLS:
            yield ast.Call(ast.Attribute(module, CALLS[name]), node.args, node.keywords)


def expressions(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that compute: no annotation, no message, no docstring."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "type_params", "bases"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg in SPEED_ONLY:
                continue
            if not isinstance(child, ast.AST) or isinstance(child, SKIPPED):
                continue
            if isinstance(child, ast.expr):
                yield child
            if not of_a_shape(child):
                yield from expressions(child)


def of_a_shape(node: ast.AST) -> bool:
    """Whether a part speaks of a shape alone: wrong there, and nothing runs; or nothing changes."""
    match node:
        case ast.Call(ast.Attribute(_, "zeros" | "ones" | "zeros_like" | "ones_like")):
            return True
        case ast.Subscript(ast.Attribute(_, "shape")):
            return True
    return False


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions and methods of a module, by their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node


def generate(file: str, names: tuple[str, ...], tests: str) -> list[Mutant]:
    """All operator mutants of those functions of a file; `*` means every function at its top level."""
    text = (SOURCE / "ridgeline" / file).read_bytes()
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
    found = dict(functions(ast.parse(text)))
    wanted = [name for name in found if "." not in name] if names == ("*",) else names
    mutants, seen = [], Counter[str]()
    for name in wanted:
        if name not in found:
            raise Stale(f"{file} has no {name}; bring tools/mutants/targets.py up to date")
        for node in expressions(found[name]):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            for other in alternatives(node):
                old, new = ast.unparse(node), ast.unparse(ast.fix_missing_locations(copy.deepcopy(other)))
                label = f"{file}:{name}: {old} → {new}"
                seen[label] += 1
                label += f" ({seen[label]})" * (seen[label] > 1)
                lost = "\n" * (node.end_lineno - node.lineno)  # so that later lines keep their numbers
                mutants.append(
                    Mutant(label, file, start, text[start:end], f"({new}{lost})".encode(), tests, "operator")
                )
    return mutants
