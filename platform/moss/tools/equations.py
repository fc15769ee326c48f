"""Equations as people write them, as SymPy objects, without ever evaluating text.

`2x^2 - 3x = 5`, `x+y=5, x-y=1`, `sin(2x) = cos(x)`, `x² = 4`. The text is cut into tokens, the
multiplication signs people leave out are put in, `ast` parses the result, and a whitelist of nodes
is turned into SymPy objects one by one. SymPy's own parsers are not used: they call `eval`.
"""

from __future__ import annotations

import ast
import re
from typing import Final

import sympy

FUNCTIONS: Final = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "asin": sympy.asin,
    "acos": sympy.acos, "atan": sympy.atan, "arcsin": sympy.asin, "arccos": sympy.acos,
    "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh,
    "exp": sympy.exp, "log": sympy.log, "ln": sympy.log, "sqrt": sympy.sqrt, "abs": sympy.Abs,
}  # fmt: skip
CONSTANTS: Final = {"pi": sympy.pi, "e": sympy.E}
MAX_EXPONENT: Final = 64
MAX_EQUATIONS: Final = 6
NO_SOLUTION: Final = "No solution."
ALWAYS: Final = "Every number is a solution."
_MAX_DIGITS: Final = 30

_SUPERSCRIPTS: Final = {sup: f"^{digit}" for digit, sup in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_SYMBOLS: Final = str.maketrans(
    {**_SUPERSCRIPTS, "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "＋": "+", "－": "-",
     "＊": "*", "／": "/", "（": "(", "）": ")", "＝": "=", "，": ",", "；": ";", "．": ".",
     "π": " pi ", "√": " sqrt ", "[": "(", "]": ")", "{": " ", "}": " "}
)  # fmt: skip
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|([A-Za-z]+)|(\*\*|[-+*/^()]))")
_SEPARATOR = re.compile(r"[,;\n]|\band\b")


class EquationError(ValueError):
    """The text is not a system of equations this module reads; the message says why."""


def parse_system(text: str) -> list[sympy.Expr]:
    """Read equations into expressions that must be zero; one without `=` is set to zero.

    Raises:
        EquationError: empty, too many equations, or something that is not an equation.
    """
    parts = [part.strip() for part in _SEPARATOR.split(text.translate(_SYMBOLS)) if part.strip()]
    parts = [part.rstrip("?.").strip() for part in parts]
    if not 1 <= len(parts) <= MAX_EQUATIONS:
        raise EquationError(f"{len(parts)} equations, expected 1 to {MAX_EQUATIONS}")
    return [_parse_equation(part) for part in parts]


def _parse_equation(text: str) -> sympy.Expr:
    sides = re.split(r"==?", text)
    if len(sides) > 2:
        raise EquationError(f"{text!r} holds more than one equals sign")
    left, right = (*sides, "0")[:2]
    return parse_expression(left) - parse_expression(right)


def parse_expression(text: str) -> sympy.Expr:
    """Read one side of an equation.

    Raises:
        EquationError: see the message.
    """
    source = _insert_multiplication(_tokens(text))
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise EquationError(f"{text!r} is not an expression") from error
    return _convert(tree.body)


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise EquationError(f"{text[position]!r} is not part of an equation")
        number, word, symbol = match.groups()
        if number and len(number) > _MAX_DIGITS:
            raise EquationError(f"a number of {len(number)} characters is too long")
        tokens += _split_word(word) if word else [number or symbol]
        position = match.end()
    if not tokens:
        raise EquationError("one side of an equation is empty")
    return tokens


def _split_word(word: str) -> list[str]:
    """A function or constant as it stands; other words are products of one-letter unknowns."""
    lowered = word.lower()
    if lowered in FUNCTIONS or lowered in CONSTANTS:
        return [lowered]
    if len(word) > 3:
        raise EquationError(f"{word!r} is neither a function nor an unknown")
    return list(word)


def _insert_multiplication(tokens: list[str]) -> str:
    pieces: list[str] = []
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else ""
        ends_value = bool(before) and (before == ")" or before[-1].isalnum() or before[-1] == ".")
        starts_value = token == "(" or token[0].isalnum() or token[0] == "."
        is_call = before in FUNCTIONS and token == "("
        if ends_value and starts_value and not is_call:
            if before in FUNCTIONS:
                raise EquationError(f"{before} needs its argument in parentheses")
            pieces.append("*")
        pieces.append("**" if token == "^" else token)
    return " ".join(pieces)


def _convert(node: ast.expr) -> sympy.Expr:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return sympy.Integer(value) if isinstance(value, int) else sympy.Rational(str(value))
        case ast.Name(id=name):
            return CONSTANTS[name] if name in CONSTANTS else sympy.Symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_convert(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _convert(operand)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](_convert(argument))
        case ast.BinOp(left=left, op=op, right=right):
            return _combine(op, _convert(left), _convert(right))
    raise EquationError(f"{ast.unparse(node)!r} is not part of an equation")


def _combine(op: ast.operator, left: sympy.Expr, right: sympy.Expr) -> sympy.Expr:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            if right == 0:
                raise EquationError("division by zero")
            return left / right
        case ast.Pow():
            if right.is_number and abs(right) > MAX_EXPONENT:
                raise EquationError(f"exponent {right} is beyond {MAX_EXPONENT}")
            return left**right
    raise EquationError(f"operator {type(op).__name__} is not part of an equation")


def solve_text(text: str) -> str:
    """Solutions of a system, one assignment per line; `` if there is none found.

    Several solutions of a system with several unknowns stand one per line: `x = 1, y = 2`.
    Periodic solutions carry an integer `n`. A proven lack of solutions reads `No solution.`.

    Raises:
        EquationError: the text is not a system of equations.
    """
    expressions = parse_system(text)
    unknowns = sorted(set().union(*(item.free_symbols for item in expressions)), key=str)
    if not unknowns:
        holds = all(sympy.simplify(item) == 0 for item in expressions)
        return ALWAYS if holds else NO_SOLUTION
    if len(unknowns) == 1 and len(expressions) == 1:
        return _solve_one(expressions[0], unknowns[0])
    return _solve_several(expressions, unknowns)


def _solve_one(expression: sympy.Expr, unknown: sympy.Symbol) -> str:
    if sympy.simplify(expression) == 0:
        return ALWAYS
    if expression.has(sympy.sin, sympy.cos, sympy.tan):
        found = sympy.solveset(expression, unknown, sympy.S.Reals)
        if found is sympy.S.EmptySet:
            return NO_SOLUTION
        lines = _set_lines(found, unknown)
        if lines:
            return "\n".join(lines)
    try:
        solutions = sympy.solve(expression, unknown)
    except NotImplementedError:
        return _numeric_root(expression, unknown)
    if not solutions:
        return NO_SOLUTION
    real = sorted((item for item in solutions if item.is_real), key=lambda item: float(item))
    others = sorted((item for item in solutions if not item.is_real), key=str)
    return "\n".join(f"{unknown} = {_show(item)}" for item in real + others)


def _set_lines(found: sympy.Set, unknown: sympy.Symbol) -> list[str]:
    """Lines for finite sets and images of the integers, none where a part is neither."""
    parts = found.args if isinstance(found, sympy.Union) else (found,)
    lines: list[str] = []
    for part in parts:
        if isinstance(part, sympy.FiniteSet):
            lines += [f"{unknown} = {_show(item)}" for item in part]
        elif isinstance(part, sympy.ImageSet):
            body = part.lamda.expr.subs(part.lamda.variables[0], sympy.Symbol("n"))
            lines.append(f"{unknown} = {_show(body)}")
        else:
            return []
    return sorted(lines, key=lambda line: (len(line), line))


def _numeric_root(expression: sympy.Expr, unknown: sympy.Symbol) -> str:
    for start in (1, 0.1, -1, 5, -5):
        try:
            root = sympy.nsolve(expression, unknown, start)
        except (ValueError, ZeroDivisionError, TypeError):
            continue
        return f"{unknown} = {sympy.N(root, 6)}"
    return ""


def _solve_several(expressions: list[sympy.Expr], unknowns: list[sympy.Symbol]) -> str:
    try:
        solutions = sympy.solve(expressions, unknowns, dict=True)
    except NotImplementedError:
        return ""
    if not solutions:
        return NO_SOLUTION
    if len(solutions) == 1:
        return "\n".join(f"{name} = {_show(value)}" for name, value in solutions[0].items())
    lines = (", ".join(f"{name} = {_show(value)}" for name, value in item.items())
             for item in solutions)  # fmt: skip
    return "\n".join(sorted(lines))


def _show(value: sympy.Expr) -> str:
    """A value in plain letters; roots without a closed form as six-digit decimals."""
    if value.has(sympy.CRootOf) or len(str(value)) > 60:
        value = sympy.N(value, 6)
    return str(value).replace("**", "^").replace("I", "i")
