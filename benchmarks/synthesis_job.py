"""A synthesis job of one call per row, as small as a job can be, for measurements."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from moss.config.synthesis import CallerConfig, SamplingConfig
from moss.config.teacher import TeacherConfig
from moss.endpoint import check_endpoint
from moss.recipes import Calls, Row, Sampling
from moss.templates import Template

SAMPLING = Sampling(SamplingConfig(max_tokens=100))


PROMPT = Template(
    "benchmark",
    "en",
    1,
    ("number",),
    "Write a short paragraph about the number {number} and what it means to people.",
)
"""A prompt of about 20 tokens, different for each number."""


class AskOnce:
    """One chat answer per row."""

    step = "ask"

    async def run(self, row: Row, calls: Calls) -> Row:
        """Adds `answer`."""
        from moss.teacher import Message

        number = row["number"]
        assert isinstance(number, int)
        messages = [Message("user", PROMPT.render(number=number))]
        answer = await calls.chat("m", messages, SAMPLING, step="ask", template=PROMPT)
        return {"answer": answer.text}


@dataclass(frozen=True)
class Job:
    """Rows through Ray Data to the endpoint; needs a connected cluster."""

    base_url: str
    ledger_folder: str
    concurrency: int
    callers: int
    timeout_s: float = 60.0
    caller: CallerConfig = field(default_factory=CallerConfig)

    def run(self, num_rows: int) -> list[Row]:
        """All rows, in order."""
        from actors.caller import CallerSetup, call_stage, stream_rows
        from actors.limiter import reach_limiter

        teacher = TeacherConfig(
            base_url=self.base_url,
            concurrency=self.concurrency,
            num_callers=self.callers,
            timeout_s=self.timeout_s,
        )
        setup = CallerSetup(
            teacher=teacher,
            endpoint=check_endpoint(teacher),
            ledger_folder=self.ledger_folder,
            seed=0,
            run=uuid.uuid4().hex,
            budget=None,
        )
        reach_limiter(teacher)
        rows: list[Row] = [{"id": f"row-{n:06d}", "number": n} for n in range(num_rows)]
        stages = [call_stage(AskOnce(), setup, self.caller)]
        return list(stream_rows(rows, stages, config=self.caller))
