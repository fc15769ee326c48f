"""Calculator: a short Python sandbox (paper section 8.2).

`x=1.5;y=x^2;x+y=?` becomes `x=1.5;y=x**2;print(x+y)` and runs in a pool of Monty interpreters
(no imports of the host, no file, network or process calls), each behind `moss.sandbox`. Before
that, the parsed program must consist of arithmetic, assignments and calls of mathematical
functions only.

Monty's arithmetic is not bit-equal to CPython's: the last digits of some functions differ, and
`round(2.675, 2)` is 2.68.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import math
import re
from typing import Final

import pydantic_monty

from moss.config.tools import CalculatorConfig, ToolsConfig
from moss.errors import ResourceError
from moss.sandbox import Lockdown, require_seccomp
from moss.sandbox_exec import launcher_for
from moss.tools.base import ToolOutput
from moss.types import ToolName

MATH_NAMES: Final = frozenset(name for name in dir(math) if not name.startswith("_"))
BUILTIN_NAMES: Final = frozenset({"abs", "round", "min", "max", "sum", "pow", "int", "float"})
FUNCTION_NAMES: Final = BUILTIN_NAMES | {
    "print",
    *(name for name in MATH_NAMES if callable(getattr(math, name))),
}

_SYMBOLS: Final = str.maketrans(
    {"×": "*", "÷": "/", "−": "-", "–": "-", "＋": "+", "－": "-", "＊": "*", "／": "/",
     "（": "(", "）": ")", "＝": "=", "？": "?", "；": ";", "，": ",", "．": ".", "π": "pi"}
)  # fmt: skip
_ALLOWED_NODES: Final = (
    ast.Module, ast.Expr, ast.Assign, ast.Name, ast.Load, ast.Store, ast.Constant, ast.BinOp,
    ast.UnaryOp, ast.Call, ast.Compare, ast.BoolOp, ast.IfExp, ast.Tuple, ast.List,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip
_MATH_PREFIX = re.compile(r"\bmath\s*\.\s*")
_WORKER_ADDRESS_SPACE: Final = 2 << 30
"""Rust's thread stacks and arenas reserve far more than they touch; `max_memory` is the bound."""
_WORKER_CPU_S: Final = 600
_CHECKOUTS_PER_WORKER: Final = 100


class ExpressionError(ValueError):
    """The text is not a calculation; the message says why."""


def preprocess(text: str) -> str:
    """Turn a calculation as people write it into a program that prints its last value.

    Raises:
        ExpressionError: not arithmetic, or no value to print.
    """
    source = _MATH_PREFIX.sub("", text.translate(_SYMBOLS).strip())
    source = source.replace("^", "**").replace("\n", ";")
    statements = [part.strip() for part in source.split(";") if part.strip()]
    if not statements:
        raise ExpressionError("the expression is empty")
    last = re.sub(r"\s*=?\s*\?\s*$|\s*=\s*$", "", statements[-1]).strip()
    if match := re.fullmatch(r"print\s*\((.*)\)", last, re.DOTALL):
        last = match[1]
    try:
        tree = ast.parse(last, mode="exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{last!r} is not an expression: {error}") from error
    shown = last
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Assign):
        target = tree.body[0].targets[0]
        shown = target.id if isinstance(target, ast.Name) else last
        statements[-1:] = [last, f"print({shown})"]
    else:
        statements[-1:] = [f"print({last})"]
    program = ";".join(statements)
    _check(program)
    return program


def _check(program: str) -> None:
    """Allow arithmetic, assignments to names, and calls of mathematical functions."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{program!r} does not parse: {error}") from error
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in FUNCTION_NAMES and id(node) not in called:
            raise ExpressionError(f"{node.id} is a function, not a number")
        if not isinstance(node, _ALLOWED_NODES):
            raise ExpressionError(f"{type(node).__name__} is not part of a calculation")
        if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float)):
            raise ExpressionError(f"{node.value!r} is not a number")
        if isinstance(node, ast.Call) and not _is_known_function(node.func):
            name = node.func.id if isinstance(node.func, ast.Name) else type(node.func).__name__
            raise ExpressionError(f"{name} is not a mathematical function")


def _is_known_function(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in FUNCTION_NAMES


def imports_of(program: str) -> str:
    """The import line for the mathematical names a program uses, or an empty string."""
    tree = ast.parse(program)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    stored = {node.id for node in ast.walk(tree)
              if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}  # fmt: skip
    used = sorted((names - stored) & (MATH_NAMES - BUILTIN_NAMES))
    return f"from math import {', '.join(used)}\n" if used else ""


class Calculator:
    """Runs calculations in sandboxed interpreters.

    Raises (constructor):
        ResourceError: seccomp is missing.
    """

    name: ToolName = "calculator"

    def __init__(self, config: CalculatorConfig) -> None:
        require_seccomp()
        self.config = config
        self.timeout_s = config.call_timeout_s
        self._pool: pydantic_monty.AsyncMonty | None = None
        self._starting = asyncio.Lock()

    async def call(self, argument: str) -> ToolOutput:
        """Value of `argument` as Python prints it; see `preprocess`."""
        if len(argument) > self.config.max_expression_chars:
            return self._failed(f"longer than {self.config.max_expression_chars} characters")
        try:
            program = preprocess(argument)
            printed = await self._run(imports_of(program) + program)
        except ExpressionError as error:
            return self._failed(str(error))
        except (pydantic_monty.MontyError, TimeoutError) as error:
            logging.getLogger(__name__).debug("calculation failed: %s", error)
            return self._failed(str(error).splitlines()[0] if str(error) else "no answer")
        if not printed or len(printed) > self.config.max_result_chars:
            return self._failed(f"result of {len(printed)} characters")
        if printed.lower().lstrip("-") in ("inf", "nan", "none"):
            return self._failed(f"result {printed}")
        return ToolOutput(ok=True, layout="quoted", text=printed)

    def _failed(self, reason: str) -> ToolOutput:
        return ToolOutput(ok=False, layout="quoted", reason=reason)

    async def _run(self, program: str) -> str:
        pool = self._pool or await self._started_pool()
        output = pydantic_monty.CollectString(64 * 1024)
        limits: pydantic_monty.ResourceLimits = {
            "max_feed_duration_secs": self.config.timeout_s,
            "max_memory": self.config.memory_bytes,
            "max_recursion_depth": 200,
        }
        async with pool.checkout(limits=limits) as session:
            await session.feed_run(program, print_callback=output)
        return str(output.output).strip()

    async def _started_pool(self) -> pydantic_monty.AsyncMonty:
        async with self._starting:
            if self._pool is None:
                launcher = launcher_for(_monty_binary(), _worker_lockdown())
                pool = pydantic_monty.AsyncMonty(
                    binary_path=launcher,
                    min_processes=1,
                    max_processes=self.config.num_workers,
                    checkout_timeout=self.timeout_s,
                    request_timeout=self.config.timeout_s + 2.0,
                    max_checkouts_per_worker=_CHECKOUTS_PER_WORKER,
                )
                self._pool = await pool.__aenter__()
            return self._pool

    async def close(self) -> None:
        """End the pool."""
        async with self._starting:
            pool, self._pool = self._pool, None
        if pool is not None:
            await pool.__aexit__(None, None, None)


def _monty_binary() -> str:
    from pydantic_monty._binary import find_monty_binary

    try:
        return str(find_monty_binary())
    except FileNotFoundError as error:
        raise ResourceError(f"the calculator needs pydantic-monty-runtime: {error}") from error


def _worker_lockdown() -> Lockdown:
    libraries = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
    return Lockdown(
        cpu_s=_WORKER_CPU_S,
        memory_bytes=_WORKER_ADDRESS_SPACE,
        readable=(*libraries, _monty_binary()),
        may_exec=True,
        may_thread=True,
    )


def build(config: ToolsConfig) -> Calculator:
    """Build the calculator of a tools configuration."""
    return Calculator(config.calculator)
