"""Prompts in a teacher's answer to a numbered few-shot list, however untidy the answer is."""

from __future__ import annotations

import json
import re
from itertools import pairwise

from moss.refusals import is_refusal

_HEADER = re.compile(
    r"^[ \t]*(?:[*_#>-]+[ \t]*)?"
    r"(?:[\[【［][ \t]*(?:question|问题)[ \t]*(\d{0,3})[ \t]*[\]】］][ \t]*[*_]*[ \t]*[:：]?"
    r"|(?:question|问题)[ \t]*(\d{1,3})[ \t]*[*_]*[ \t]*[:：])[*_]*",
    re.MULTILINE | re.IGNORECASE,
)
"""`[Question 3]:` as asked for, and its kin: full-width brackets, no number, Markdown around it."""
_LIST_ITEM = re.compile(r"^[ \t]*(\d{1,2})[ \t]*[.)、．）][ \t]*(?=\S)", re.MULTILINE)
_JSON_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"(?=\s*[,\]])')
_FENCE = re.compile(r"^```\w*\n?")


def parse_prompts(completion: str, *, count: int, is_truncated: bool) -> list[str]:
    """Prompts in a completion that continues an open `[Question 1]:`.

    Takes a repeated first header, a preface before it, missing colons and numbers, plain numbered
    lists and JSON lists. Stops at `count`; a last item that was cut off is dropped. A refusal, a
    preface alone or broken JSON hold no prompt.
    """
    text = completion.strip()
    bodies = _labelled(text) or _listed(text)
    if not bodies:
        if text.startswith(("[", "{", "```")):
            return _json_items(text)[:count]
        bodies = [] if is_refusal(text) or text.endswith((":", "：")) else [text]
    if is_truncated:
        bodies = bodies[:-1]
    texts = [_first_paragraph(body) for body in bodies[:count]]
    return [text for text in texts if text]


def _labelled(text: str) -> list[str]:
    """Bodies behind headers; what stands before a first header other than 1 is item 1."""
    heads = list(_HEADER.finditer(text))
    if not heads:
        return []
    number = heads[0][1] or heads[0][2]
    opening = text[: heads[0].start()].strip()
    is_item = int(number) > 1 if number else not opening.endswith((":", "："))
    return ([opening] if opening and is_item else []) + _between(text, heads)


def _listed(text: str) -> list[str]:
    """Bodies of a plain list `1. ...` whose numbers follow each other; else nothing."""
    heads = list(_LIST_ITEM.finditer(text))
    numbers = [int(head[1]) for head in heads]
    if not heads or numbers[0] > 2 or any(b != a + 1 for a, b in pairwise(numbers)):
        return []
    opening = text[: heads[0].start()]
    if numbers[0] == 2:
        return [opening, *_between(text, heads)]
    return _between(text, heads) if len(heads) > 1 else []


def _between(text: str, heads: list[re.Match[str]]) -> list[str]:
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [text[head.end() : end] for head, end in zip(heads, ends, strict=True)]


def _json_items(text: str) -> list[str]:
    """The whole strings of a JSON list of strings, its end cut off or not."""
    inner = _FENCE.sub("", text).lstrip()
    if not re.match(r'\[\s*"', inner):
        return []
    found = []
    for match in _JSON_STRING.finditer(inner):
        try:
            found.append(_first_paragraph(json.loads(match[0])))
        except ValueError:
            continue
    return [item for item in found if item]


def _first_paragraph(body: str) -> str:
    return " ".join(body.strip().split("\n\n")[0].split())
