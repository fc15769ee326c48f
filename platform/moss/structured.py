"""Answers that must have a form: parsed, repaired once by a follow-up request, else set aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from moss.errors import DataError, TeacherResponseError
from moss.recipes import Calls, Sampling
from moss.teacher import Message
from moss.templates import Template, load_template

T = TypeVar("T")

RAW_TEXT_CHARS = 2_000
"""Of an answer that is set aside, in the row's reason; the ledger holds all of it."""


async def ask_parsed(
    calls: Calls,
    model: str,
    prompt: str,
    sampling: Sampling,
    *,
    step: str,
    template: Template,
    parse: Callable[[str], T],
) -> T:
    """Ask a single prompt and parse the answer; what does not parse is asked for once more.

    The follow-up shows the model its own answer and why it could not be read. Both are ledger
    entries of their own, so a resumed run pays neither again.

    Args:
        template: what the prompt was rendered from; recorded in the row's `calls`.
        parse: raises TeacherResponseError or DataError with what is wrong.

    Raises:
        TeacherResponseError: the second answer does not parse either; holds both raw texts.
    """
    first = await calls.ask(model, prompt, sampling, step=step, template=template)
    try:
        return parse(first.text)
    except (TeacherResponseError, DataError) as error:
        reason = str(error)
    repair = load_template("repair_answer", template.language)
    request, step = repair.render(reason=reason), f"{step}-repair"
    if calls.only_completes(model):
        text = f"{prompt}{first.text}\n\n{request}\n"
        second = await calls.complete(model, text, sampling, step=step, template=repair)
    else:
        messages = [
            Message("user", prompt),
            Message("assistant", first.text),
            Message("user", request),
        ]
        second = await calls.chat(model, messages, sampling, step=step, template=repair)
    try:
        return parse(second.text)
    except (TeacherResponseError, DataError) as error:
        raise TeacherResponseError(
            f"{error}; after one repair. First answer: {first.text[:RAW_TEXT_CHARS]!r}; second: "
            f"{second.text[:RAW_TEXT_CHARS]!r}"
        ) from error
