from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from moss.config.tools import CalculatorConfig
from moss.tools.calculator import Calculator, ExpressionError, preprocess


@pytest_asyncio.fixture
async def calculator() -> AsyncIterator[Calculator]:
    tool = Calculator(CalculatorConfig())
    yield tool
    await tool.close()


def test_the_example_of_the_paper_is_rewritten_letter_by_letter() -> None:
    assert preprocess("x=1.5;y=x^2;x+y=?") == "x=1.5;y=x**2;print(x+y)"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x=1.5;y=x^2;x+y=?", "3.75"),
        ("37*43+5", "1596"),
        ("37*43+5=?", "1596"),
        ("2×3＋4＝？", "10"),
        ("10/4", "2.5"),
        ("7//2", "3"),
        ("sqrt(16)", "4.0"),
        ("math.factorial(10)", "3628800"),
        ("round(log(e), 3)", "1.0"),
        ("sin(0)", "0.0"),
        ("a=3\nb=4\nsqrt(a^2+b^2)", "5.0"),
        ("print(2+2)", "4"),
        ("x=5", "5"),
        ("-3", "-3"),
        ("sum([1,2,3])", "6"),
    ],
)
async def test_calculations_print_as_python_does(
    calculator: Calculator, text: str, answer: str
) -> None:
    output = await calculator.call(text)
    assert (output.ok, output.text, output.body()) == (True, answer, repr(answer))


@pytest.mark.parametrize(
    "text",
    [
        "", "?", "hello world", "1/0", "sqrt(-1)", "1+", "(((", "x", "'a'*3", "[].__class__",
        "__import__('os').system('id')", "open('/etc/passwd').read()", "().__class__.__bases__",
        "eval('1')", "exec('1')", "import os", "lambda: 1", "[x for x in (1,)]", "f'{1}'",
        "(1).__class__", "math.__loader__", "print(print)", "x:=1", "while True: pass",
        "9**9**9", "10**100", "factorial(10**7)", "1<<10**9", "2**10**8", "inf", "float('nan')",
        "comb(10**6,5*10**5)", "(" * 300 + "1" + ")" * 300, "1" * 401, "\x00", "１＋",
    ],
)  # fmt: skip
async def test_everything_else_gives_no_result_in_time(calculator: Calculator, text: str) -> None:
    started = time.monotonic()
    output = await calculator.call(text)
    assert not output.ok
    assert output.body() == "'No result.'"
    assert output.reason
    assert time.monotonic() - started < 8


async def test_calls_run_side_by_side_and_do_not_share_variables(calculator: Calculator) -> None:
    await calculator.call("secret=41")
    assert not (await calculator.call("secret+1")).ok
    outputs = await asyncio.gather(*(calculator.call(f"{n}*2") for n in range(50)))
    assert [output.text for output in outputs] == [str(2 * n) for n in range(50)]


async def test_a_killed_worker_is_replaced(calculator: Calculator) -> None:
    await calculator.call("1+1")
    for child in psutil.Process().children(recursive=True):
        if child.name() == "monty":
            os.kill(child.pid, signal.SIGKILL)
    outputs = [await calculator.call("1+1") for _ in range(3)]
    assert outputs[-1].text == "2"


def test_one_tool_serves_several_event_loops() -> None:
    tool = Calculator(CalculatorConfig())
    try:
        for _ in range(2):
            assert asyncio.run(tool.call("1+1")).text == "2"
    finally:
        asyncio.run(tool.close())


def test_a_word_is_not_a_calculation() -> None:
    with pytest.raises(ExpressionError, match="not a mathematical function"):
        preprocess("foo(3)")
