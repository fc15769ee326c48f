"""Run one recipe on one row against a stub endpoint, without Ray."""

from __future__ import annotations

import asyncio
import tempfile

from moss.config.teacher import TeacherConfig
from moss.endpoint_limits import RunLimits
from moss.ledger import Ledger
from moss.limits import Budget
from moss.local_limits import LocalLimits
from moss.recipes import Recipe, Row, apply_recipe
from moss.teacher import Endpoint, Teacher
from tests.stub_endpoint import Responder, StubEndpoint, running


def run_recipe(recipe: Recipe, row: Row, respond: Responder) -> tuple[Row, list[dict[str, object]]]:
    """The row after the recipe, and the request bodies it sent, in order."""
    with running(StubEndpoint(respond)) as stub, tempfile.TemporaryDirectory() as folder:
        config = TeacherConfig(base_url=stub.base_url, max_attempts=1, backoff_s=0)

        async def run() -> Row:
            limits = LocalLimits(RunLimits(concurrency=4), Budget(tokens=None, usd=None))
            with Ledger(folder) as ledger:
                async with Teacher(config, Endpoint("s"), ledger=ledger, limits=limits) as teacher:
                    return await apply_recipe(recipe, row, teacher=teacher, config=config, seed=0)

        return asyncio.run(run()), stub.bodies
