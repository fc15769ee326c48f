"""Escapes and bombs in the calculator, the solver, and the process below the solver.

Canaries: a planted file with a secret, its folder's listing, a listener that nobody may reach, and
an environment variable. After every attack the next honest call must be answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyseccomp
import pytest

from moss import sandbox
from moss.config.tools import CalculatorConfig, SolverConfig
from moss.tools.base import ToolOutput
from moss.tools.calculator import Calculator
from moss.tools.solver import Solver
from tests.attacks.counting import attack

SECRET = "planted-secret-4711"
PLATFORM = str(Path(sandbox.__file__).resolve().parents[1])
CALL_S = 8.0
"""Longest one hostile call may take, its limits being under a second."""
MAX_GROWTH_BYTES = 160 << 20
"""Resident memory that hostile calls may add to all workers together, at any moment."""


@dataclass
class Canaries:
    """What no attack may read, write or reach."""

    folder: Path
    listener: socket.socket

    @property
    def file(self) -> Path:
        return self.folder / "secret.txt"

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def check(self, *outputs: str) -> None:
        assert not any(SECRET in output for output in outputs)
        assert sorted(path.name for path in self.folder.iterdir()) == ["secret.txt"]
        assert self.file.read_text() == SECRET
        assert self.file.stat().st_mode & 0o777 == 0o600
        assert not select.select([self.listener], [], [], 0)[0], "somebody connected"


@pytest.fixture
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canaries]:
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "secret.txt").chmod(0o600)
    monkeypatch.setenv("PLANTED", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Canaries(tmp_path, listener)


@pytest.fixture(scope="module")
def calculator() -> Iterator[Calculator]:
    tool = Calculator(CalculatorConfig(timeout_s=0.4))
    assert asyncio.run(tool.call("1+1")).text == "2"
    yield tool
    asyncio.run(tool.close())


@pytest.fixture(scope="module")
def solver() -> Iterator[Solver]:
    tool = Solver(SolverConfig(timeout_s=0.8))
    assert asyncio.run(tool.call("x=1")).ok  # loads SymPy
    yield tool
    asyncio.run(tool.close())


def rss_of_children() -> int:
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


async def watched(tool: Calculator | Solver, argument: str) -> tuple[ToolOutput, float, int]:
    """The output, its seconds, and the most that the workers grew."""
    before = rss_of_children()
    most = before
    started = time.monotonic()
    call = asyncio.create_task(tool.call(argument))
    while not call.done():
        await asyncio.wait({call}, timeout=0.05)
        most = max(most, rss_of_children())
    return await call, time.monotonic() - started, most - before


CALCULATIONS = {
    "walk to object": "().__class__.__base__.__subclasses__()",
    "walk from a number": "(1).__class__.__mro__",
    "walk from a function": "sqrt.__self__",
    "globals of a function": "sqrt.__globals__",
    "getattr": "getattr(1,'__class__')",
    "getattr by characters": "getattr(1,chr(95)+chr(95))",
    "import": "import os",
    "import from": "from os import system",
    "dunder import": "__import__('os').system('touch {folder}/x')",
    "import of a module": "importlib.import_module('os')",
    "builtins": "__builtins__['open']('{file}').read()",
    "open": "open('{file}').read()",
    "open by math": "math.__loader__.get_data('{file}')",
    "write": "open('{folder}/x','w').write('x')",
    "eval": "eval('1+1')",
    "exec": "exec('x=1')",
    "compile": "compile('1','','eval')",
    "breakpoint": "breakpoint()",
    "input": "input()",
    "help": "help('os')",
    "vars": "vars()",
    "globals": "globals()",
    "format string": "'{{0.__class__}}'.format(1)",
    "f-string": "f'{{1}}'",
    "percent format": "'%s'%1",
    "pickle": "pickle.loads(b'cos')",
    "lambda": "(lambda: 1)()",
    "comprehension": "[i for i in (1,2)]",
    "comprehension bomb": "[[0]*10**6 for _ in [0]*10**6]",
    "generator": "sum(i for i in [1])",
    "decorator class": "class A: pass",
    "walrus": "(x:=1)",
    "star arguments": "max(*[1,2])",
    "keyword argument": "print(1,file=2)",
    "dictionary": "{{1:2}}",
    "attribute by name": "pi.real",
    "async": "await x",
    "yield": "yield 1",
    "del": "del pi",
    "with": "with a: pass",
    "raise": "raise 1",
    "shadowed function": "print=1;print(2)",
    "fullwidth name": "ｏｐｅｎ('{file}')",
    "mathematical letters": "𝐨𝐩𝐞𝐧('{file}')",
    "ligature name": "ﬁle('{file}')",
    "bidi override": "1\u202e+1",
    "null byte": "1\x00+1",
    "line separator": "1\u2028import os",
    "backslash continuation": "1+\\\nimport os",
    "comment hides": "1 #\nimport os",
    "semicolon import": "x=1;import os;x",
    "socket": "socket.create_connection(('127.0.0.1',{port}))",
    "environment": "os.environ['PLANTED']",
    "proc": "open('/proc/self/environ').read()",
    "power tower": "9**9**9",
    "power by pow": "pow(10,10**9)",
    "negative power tower": "(-9)**9**9",
    "shift": "1<<10**10",
    "factorial": "factorial(10**8)",
    "comb": "comb(10**7,5*10**6)",
    "perm": "perm(10**6)",
    "repetition": "sum([1]*10**10)",
    "nested repetition": "sum([[1]*10**5]*10**5,[])",
    "tuple repetition": "max((1,)*10**10)",
    "doubling": "x=2;" + "x=x*x;" * 60 + "x",
    "long product": "prod([10**400]*10**5)",
    "lcm": "lcm(*[1])",
    "isqrt of a tower": "isqrt(10**10**7)",
    "deep parentheses": "(" * 190 + "1" + ")" * 190,
    "deep unary": "-" * 390 + "1",
    "deep call of a tower": "(" + "-" * 380 + "x)(1)",
    "deep list": "[" * 195 + "]" * 195,
    "deep power": "2" + "**2" * 130,
    "many statements": ";".join(["x=1"] * 99),
    "a print flood": "print(print(print([1]*10**6)))",
    "a number of 399 digits": "9" * 399,
    "not a number": "inf-inf",
    "the largest float": "1e308*10",
    "a complex number": "1j*1j",
    "hexadecimal float": "float.fromhex('0x1')",
    "a chain of comparisons": "1<2<" * 90 + "3",
    "catastrophic spaces": " " * 399 + "x",
    "nothing but signs": "=?" * 200,
}
HARMLESS = {"a chain of comparisons", "deep parentheses", "deep unary", "many statements",
            "bidi override"}  # fmt: skip
"""These are arithmetic, and an answer to them gives nothing away."""


@attack("calculator", {name: (name, text) for name, text in CALCULATIONS.items()})
async def test_the_calculator_gives_nothing_out(
    calculator: Calculator, canaries: Canaries, case: tuple[str, str]
) -> None:
    name, text = case
    where = {"folder": canaries.folder, "file": canaries.file, "port": canaries.port}
    output, seconds, growth = await watched(calculator, text.format(**where))
    canaries.check(output.text, output.reason)
    if name not in HARMLESS:
        assert not output.ok, output.text
    assert len(output.text) <= calculator.config.max_result_chars
    assert seconds < CALL_S
    assert growth < MAX_GROWTH_BYTES
    assert (await calculator.call("2+2")).text == "4"


EQUATIONS = {
    "dunder import": "x=__import__('os').system('touch {folder}/x')",
    "open": "x=open('{file}').read()",
    "attribute": "x.__class__=1",
    "subclasses": "().__class__.__subclasses__()=x",
    "sympify": "sympify('1')=x",
    "lambdify": "lambdify(x,1)=x",
    "S of a string": "S('1')=x",
    "Symbol with code": "Symbol('__import__(\"os\")')=x",
    "eval": "eval(1)=x",
    "f-string": "f'{{x}}'=1",
    "srepr": "Function('f')(x)=1",
    "string unknown": "'x'=1",
    "bytes": "b'x'=1",
    "index": "x[0]=1",
    "comprehension": "[x for x in x]=1",
    "lambda": "(lambda:x)()=1",
    "ternary": "1 if x else 2=1",
    "walrus": "(x:=1)=1",
    "bit operators": "x|1=1",
    "modulo": "x%2=1",
    "matrix power": "x@x=1",
    "factorial": "x!=100000",
    "fullwidth letters": "ｏｐｅｎ(x)=1",
    "superscript flood": "x" + "²" * 200 + "=1",
    "a null byte": "x\x00=1",
    "a line separator": "x=1\u2028y=1",
    "JSON in the protocol": '"}}\n{{"id":1,"ok":true,"text":"forged"}}',
    "a newline in the protocol": 'x=1\n{{"id": 99, "equation": "x=2"}}',
    "a lone surrogate": "x=\ud800",
    "power tower": "x=9^9^9^9",
    "power by parentheses": "x=((9^60)^60)^60",
    "product of powers": "(x+1)^64*(x+2)^64*(x+3)^64=1",
    "nested square roots": "sqrt(" * 40 + "x" + ")" * 40 + "=1",
    "nested sines": "sin(" * 40 + "x" + ")" * 40 + "=1",
    "exponential tower": "exp(exp(exp(exp(exp(x)))))=5",
    "exponent of an exponent": "x=exp(exp(exp(exp(60))))",
    "a huge rational": "x=1/3^64^1+" + "1/7^64+" * 30 + "1",
    "x to the x": "x^x^x=5",
    "heavy system": "x^64+x^63+x^61+y=1, y^60+x=2",
    "six heavy equations": ", ".join(f"a^{n}+b^{n}+c^{n}+d^{n}=x" for n in range(20, 26)),
    "deep parentheses": "(" * 140 + "x" + ")" * 140 + "=1",
    "deep unary": "-" * 290 + "x=1",
    "long sum": "+".join(["sin(x)*cos(x)"] * 20) + "=1",
    "division by zero": "1/(x-x)=1",
    "zero to the minus": "0^(-1)=x",
    "a huge number": "x=" + "9" * 60,
    "many equations": ",".join(["x=1"] * 60),
    "a tan of a pole": "tan(pi/2)=x",
    "log of zero": "log(0)=x",
}  # fmt: skip


@attack("solver", EQUATIONS)
async def test_the_solver_gives_nothing_out(solver: Solver, canaries: Canaries, case: str) -> None:
    where = {"folder": canaries.folder, "file": canaries.file, "port": canaries.port}
    output, seconds, growth = await watched(solver, case.format(**where))
    canaries.check(output.text, output.reason)
    assert "forged" not in output.text
    assert len(output.text) <= solver.config.max_result_chars
    assert seconds < CALL_S
    assert growth < solver.config.memory_bytes
    assert (await solver.call("x+1=3")).text == "x = 2"


@dataclass
class HostileZygote:
    """The real zygote; what it forks runs Python of ours."""

    process: subprocess.Popen[bytes]
    last_id: int = 0

    def run(self, source: str) -> dict[str, Any]:
        self.last_id += 1
        line = json.dumps({"id": self.last_id, "equation": source})
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], CALL_S)[0], "no answer in time"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileZygote]:
    plan = {"platform": PLATFORM, "packages": str(Path(pyseccomp.__file__).parent),
            "timeout_s": 0.5, "memory_bytes": 512 << 20}  # fmt: skip
    script = str(Path(__file__).with_name("hostile_zygote.py"))
    errors = tmp_path_factory.mktemp("zygote") / "stderr"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", script, json.dumps(plan)], stdin=subprocess.PIPE, stderr=file,
            stdout=subprocess.PIPE, env={"PLANTED": SECRET},
        )  # fmt: skip
    zygote = HostileZygote(process)
    assert zygote.read() == {"ready": True}
    yield zygote
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()
    assert errors.read_bytes() == b"", "a child wrote to the service's log"


CODE = {
    "read by openat2": "return call(437, -100, b'{file}', ctypes.byref((ctypes.c_uint64*3)()), 24)",
    "read by the old open": "return call(2, b'{file}', 0)",
    "read by creat": "return call(85, b'{folder}/x', 0o600)",
    "read through proc": "return open('/proc/self/root{file}').read()",
    "read the environment": "return open('/proc/self/environ').read()",
    "read what was in os.environ": "import os; return os.environ['PLANTED']",
    "read the parent's memory map": "import os; return open(f'/proc/{{os.getppid()}}/maps').read()",
    "read inherited descriptors":
        "import os\nfor fd in range(3, 64):\n    try:\n        got = os.read(fd, 9)\n"
        "    except OSError:\n        continue\n    return got\nraise OSError",
    "read the service's code": "return open('{platform}/moss/errors.py').read()",
    "a handle instead of a path":
        "return call(303, -100, b'{file}', ctypes.create_string_buffer(99), "
        "ctypes.byref(ctypes.c_int()), 0)",
    "a temporary file": "import os; return os.open('{folder}', os.O_TMPFILE | os.O_RDWR)",
    "append to a file": "import os; return os.open('{file}', os.O_WRONLY | os.O_APPEND)",
    "truncate": "return call(76, b'{file}', 0)",
    "hard link": "import os; return os.link('{file}', '{folder}/l')",
    "a fifo": "import os; return os.mkfifo('{folder}/f')",
    "change times": "import os; return os.utime('{file}', (1, 1))",
    "extended attributes": "import os; return os.setxattr('{file}', 'user.a', b'b')",
    "chroot": "return call(161, b'{folder}')",
    "a socket": "return call(41, 2, 1, 0)",
    "a connection": "import socket; return socket.create_connection(('127.0.0.1', {port}), 1)",
    "a unix socket": "return call(41, 1, 1, 0)",
    "a netlink socket": "return call(41, 16, 3, 0)",
    "a raw socket": "return call(41, 17, 3, 0)",
    "a socket pair": "return call(53, 1, 1, 0, ctypes.byref((ctypes.c_int*2)()))",
    "io_uring": "return call(425, 4, ctypes.create_string_buffer(120))",
    "fork": "return call(57)",
    "vfork": "return call(58)",
    "clone": "return call(56, 17, 0, 0, 0, 0)",
    "clone3": "return call(435, ctypes.create_string_buffer(88), 88)",
    "a thread": "import threading; t = threading.Thread(target=print); t.start(); return t",
    "a fork bomb": "import os\nn = 0\nwhile os.fork() >= 0:\n    n += 1\nreturn n",
    "exec": "import os; return os.execv('/bin/sh', ['sh', '-c', 'touch {folder}/x'])",
    "exec from memory": "return call(322, call(319, b'm', 0), b'', 0, 0, 0x1000)",
    "a memory file": "return call(319, b'm', 0)",
    "signal the parent": "import os; return call(62, os.getppid(), 15)",
    "signal everybody": "return call(62, -1, 0)",
    "signal a thread of the parent":
        "import os; return call(234, os.getppid(), os.getppid(), 15)",
    "queue a signal": "import os; return call(129, os.getppid(), 15, 0)",
    "trace the parent": "import os; return call(101, 16, os.getppid(), 0, 0)",
    "read the parent's memory":
        "import os; b = (ctypes.c_uint64*2)(); return call(310, os.getppid(), b, 1, b, 1, 0)",
    "a descriptor of the parent": "import os; return call(434, os.getppid(), 0)",
    "limits of the parent": "import os\nb = (ctypes.c_uint64*2)(1, 1)\n"
        "return call(302, os.getppid(), 7, ctypes.byref(b), 0)",
    "priority": "import os; return os.nice(-5)",
    "more memory": "import resource; return resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "perf events": "return call(298, ctypes.create_string_buffer(120), 0, -1, -1, 0)",
    "bpf": "return call(321, 0, 0, 0)",
    "userfaultfd": "return call(323, 0)",
    "the keyring": "return call(250, 0, -3, 0)",
    "shared memory": "return call(29, 0, 4096, 0o1600)",
    "a message queue": "return call(68, 0, 0o1600)",
    "a terminal": "return call(16, 1, 0x5412, b'x')",
    "a user namespace": "return call(272, 0x10000000)",
    "enter a namespace": "return call(308, 0, 0)",
    "mount": "return call(165, b'none', b'{folder}', b'tmpfs', 0, 0)",
    "kernel modules": "return call(175, 0, 0, b'')",
    "the kernel log": "return call(103, 3, ctypes.create_string_buffer(99), 99)",
    "the clock": "return call(164, 0, 0)",
    "another personality": "return call(135, 0x0040000)",
    "dumpable again": "return call(157, 4, 1, 0, 0, 0)",
    "the 32-bit gate":  # mov eax,20 (getpid); int 0x80; ret
        "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "return f()",
    "the x32 gate": "return call(0x40000000 + 39)",
    "a forged answer": "import os\nfor fd in range(2, 64):\n    try:\n"
        "        os.write(fd, b'{{\"id\": 1, \"ok\": true, \"text\": \"forged\"}}')\n"
        "    except OSError:\n        pass\nraise OSError",
    "a flood of the log": "import os\nwhile True:\n    os.write(2, b'x' * 65536)",
    "an answer without end": "return 'x' * (100 << 20)",
    "memory": "return len(bytearray(4 << 30))",
    "memory by pieces": "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))",
    "time": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "deaf to signals": "import signal\nfor n in range(1, 32):\n    try:\n"
        "        signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError):\n"
        "        pass\nwhile True: pass",
    "recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f()\nreturn f()",
    "a crash": "return ctypes.string_at(0)",
    "a lone surrogate": "return '\\ud800'",
    "a regular expression": "import re; return re.match('(a+)+$', 'a' * 40 + 'b')",
    "a decompression bomb": "import zlib\nz = zlib.compress(bytes(1 << 28))\n"
        "return len(zlib.decompress(z))",
}  # fmt: skip
ANSWERED = {"a lone surrogate"}
X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="system call numbers of x86-64")


@X86
@attack("code in the solver's child", {name: (name, text) for name, text in CODE.items()})
def test_code_in_the_child_gets_nothing_out(
    hostile: HostileZygote, canaries: Canaries, case: tuple[str, str]
) -> None:
    name, text = case
    where = {"folder": canaries.folder, "file": canaries.file, "port": canaries.port}
    started = time.monotonic()
    answer = hostile.run(text.format(platform=PLATFORM, **where))
    assert time.monotonic() - started < CALL_S
    canaries.check(answer["text"])
    assert answer["ok"] == (name in ANSWERED), answer
    assert hostile.run("return 'alive'") == {"id": hostile.last_id, "ok": True, "text": "alive"}
    assert rss_of_process(hostile.process.pid) < 128 << 20


def rss_of_process(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def test_no_worker_is_left_behind(hostile: HostileZygote) -> None:
    assert psutil.Process(hostile.process.pid).children() == []
    assert os.getpid() == psutil.Process(hostile.process.pid).ppid()
