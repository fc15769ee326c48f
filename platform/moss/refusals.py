"""Answers that decline to do what was asked, where an answer must not: prompts, a user's part."""

from __future__ import annotations

import re

_SORRY = (
    r"(?:(?:(?:i['’]?m|i am) (?:very |so |really )?sorry|sorry|unfortunately|i apologize)"
    r"[,，.:;!\s]*)?"
)
_UNABLE = (
    r"i(?:['’]m| am) (?:unable|not able) to"
    r"|i (?:cannot|can['’]?t|can not|won['’]?t|will not|must decline)"
)
_ASKED_FOR = (
    r"help|assist|comply|provide|fulfill?|generate|create|produce|continue|engage|participate|"
    r"support|answer|ask|role-?play|pretend|play"
)
_REFUSAL = re.compile(
    rf"{_SORRY}(?:but[, ]+)?(?:as an ai\b[^,.]*,\s*(?:{_UNABLE})\b"
    rf"|(?:{_UNABLE})(?: (?:{_ASKED_FOR})\b|[.!]?\Z))"
    r"|(?:(?:非常|很|十分)?(?:抱歉|对不起)[，,。！!\s]*(?:但|不过)?)?"
    r"(?:作为(?:一个|一名)?(?:人工智能|AI)[^，,]{0,10}[，,]\s*我(?:无法|不能)"
    r"|我(?:无法|不能)(?:提供|帮助|协助|满足|完成|回答|生成|继续|参与|扮演|[。！]?\Z))",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether a text opens as refusals do, in English or Chinese; a question never is one.

    What people say of themselves ("I can't find my key") is none: a refusal names the task.
    """
    opening = text.strip().strip("\"'“”*")
    return _REFUSAL.match(opening) is not None and not opening.endswith(("?", "？"))
