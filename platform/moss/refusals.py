"""Answers that decline to do what was asked, where an answer must not: prompts, a user's part."""

from __future__ import annotations

import re

_REFUSAL = re.compile(
    r"(?:(?:i['’]?m|i am) (?:very |so |really )?sorry|sorry|my apologies|unfortunately)?"
    r"[,，.:;!\s]*"
    r"(?:but[, ]+)?(?:as an ai(?: language model| assistant)?[, ]+)?"
    r"(?:i (?:cannot|can['’]?t|can not|am unable to|am not able to|won['’]t|will not|must decline)"
    r"|i['’]m (?:unable|not able) to)\b"
    r"|(?:非常|很|十分)?(?:抱歉|对不起)[，,。！!\s]*(?:但)?(?:作为(?:一个|一名)?(?:人工智能|AI)[^，,]{0,10}[，,])?我(?:无法|不能|没有办法|不可以)"
    r"|作为(?:一个|一名)?(?:人工智能|AI)[^，,]{0,10}[，,]\s*我(?:无法|不能)"
    r"|我(?:无法|不能)(?:提供|帮助|协助|满足|完成|回答|生成)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether a text opens as refusals do, in English or Chinese; a question never is one."""
    opening = text.strip().strip("\"'“”*")
    return _REFUSAL.match(opening) is not None and not opening.endswith(("?", "？"))
