"""Redact personal data from what users typed, before a teacher or a training set sees it.

Covered, in half- and full-width characters: e-mail addresses; telephone numbers (Chinese mobile and
landline, North American, international with `+`); Chinese resident identity numbers (date and check
digit, or named as one), US social security numbers; payment cards (issuer, length, Luhn); public IP
addresses, MAC addresses; number plates; passport, QQ and WeChat accounts where the text names them
so; private keys, API keys, JSON web tokens and passwords in URLs.

Not covered: names of people, postal addresses, dates of birth, other account names, numbers without
a form of their own. What is left is pseudonymous, not anonymous.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import date
from typing import Final

_FULL_WIDTH: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
"""Full-width forms of ASCII, one character each, so that places in the text stay the same."""

_MAILBOX: Final = r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}"
"""Begins where a run of its characters begins: one try for each run, however long it is."""
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK_DIGITS: Final = "10X98765432"
_CARD_FORMS: Final = re.compile(
    r"4\d{15}|4\d{18}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|35\d{14}|6(?:011|5\d\d)\d{12}|62\d{14,17}"
)
"""Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay."""


def _is_resident_id(text: str) -> bool:
    """Date of birth and check digit (GB 11643: ISO 7064, mod 11-2)."""
    digits = re.sub(r"[ -]", "", text).upper()
    try:
        date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, _ID_WEIGHTS, strict=False))
    return _ID_CHECK_DIGITS[total % 11] == digits[17]


def _is_card(text: str) -> bool:
    """A known issuer's form, and Luhn's sum."""
    digits = re.sub(r"[ -]", "", text)
    if not _CARD_FORMS.fullmatch(digits):
        return False
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(digits[::-1])]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_public_address(text: str) -> bool:
    """Loopback, private and documentation addresses name nobody, and programs are full of them."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _always(_: str) -> bool:
    return True


_Recognizer = tuple[str, re.Pattern[str], Callable[[str], bool]]


def _recognizer(
    placeholder: str, pattern: str, check: Callable[[str], bool] = _always, flags: int = 0
) -> _Recognizer:
    return placeholder, re.compile(pattern, flags), check


_RECOGNIZERS: Final[tuple[_Recognizer, ...]] = (
    _recognizer(
        "<key>",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        flags=re.DOTALL,
    ),
    _recognizer("<key>", r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    _recognizer(
        "<key>",
        r"\b(?:sk-(?:[a-z]+-)*[A-Za-z0-9_]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|glpat-[\w-]{16,}"
        r"|AKIA[A-Z0-9]{16}|AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|hf_[A-Za-z0-9]{20,})",
    ),
    _recognizer("<password>", r"(?<=://)[^/\s:@<>]+:[^/\s@<>]+(?=@)"),
    _recognizer("<email>", rf"{_MAILBOX}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"),
    _recognizer(
        "<email>",
        rf"{_MAILBOX} ?[\[(] ?at ?[\])] ?[A-Za-z0-9-]+"
        r"(?: ?(?:\.|[\[(] ?dot ?[\])]) ?[A-Za-z0-9-]+)+",
        flags=re.IGNORECASE,
    ),
    _recognizer("<id>", r"(?<!\d)\d{6}[ -]?\d{8}[ -]?\d{3}[\dXx](?![\dA-Za-z])", _is_resident_id),
    _recognizer(
        "<id>",
        r"(?:身份证|身分证|(?i:id card|identity card|resident id))\D{0,12}?"
        r"(?P<value>\d{15}(?:\d{2}[\dXx])?)(?![\dA-Za-z])",
    ),
    _recognizer("<id>", r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    _recognizer(
        "<passport>",
        r"(?:护照|(?i:passport))[^A-Za-z0-9\n]{0,4}(?:号码?|(?i:no\.?|number))?[^A-Za-z0-9\n]{0,4}"
        r"(?:(?i:is) )?(?P<value>[A-Za-z]{1,2}\d{7,8})(?!\d)",
    ),
    _recognizer("<card>", r"(?<![\d.*/^+])\d{4}(?:[ -]?\d{4}){2,3}[ -]?\d{1,4}(?!\d)", _is_card),
    _recognizer("<card>", r"(?<![\d.*/^+])\d{4}[ -]?\d{6}[ -]?\d{4,5}(?!\d)", _is_card),
    _recognizer("<card>", r"(?<![\d.*/^+])\d{14,19}(?!\d)", _is_card),
    _recognizer(
        "<mac>", r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])"
    ),
    _recognizer("<ip>", r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", _is_public_address),
    _recognizer(
        "<ip>", r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", _is_public_address
    ),
    _recognizer(
        "<phone>", r"(?<!\d)(?:\(?(?:\+|00)?86\)?[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)"
    ),
    _recognizer(
        "<phone>",
        r"(?<![\d.+*/-])(?:\(0\d{2,3}\)|0(?:10|2\d|[3-9]\d{2})(?=[ -]))[ -]?"
        r"[2-8]\d{2,3}[ -]?\d{4}(?!\d)",
    ),
    _recognizer(
        "<phone>", r"(?<![\w)])\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{2,4}(?:[ -]\d{2,4}){1,3}(?!\d)"
    ),
    _recognizer("<phone>", r"(?<![\w)])\+[1-9]\d{9,14}(?!\d)"),
    _recognizer("<phone>", r"(?<![\d+*/-])(?:\+?1[ -])?\(?\d{3}\)?[ -]\d{3}-\d{4}(?!\d)"),
    _recognizer("<phone>", r"(?<![\d.])\d{3}\.\d{3}\.\d{4}(?!\d|\.\d)"),
    _recognizer(
        "<plate>",
        "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z][·• ]?"
        r"[A-HJ-NP-Z0-9]{5,6}(?![A-Za-z0-9])",
    ),
    _recognizer(
        "<account>", r"(?<![A-Za-z])[Qq]{2}[号群码是为: ]{0,5}(?P<value>[1-9]\d{4,11})(?!\d)"
    ),
    _recognizer(
        "<account>",
        r"(?:微信|(?i:wechat))(?:[号是为: ]|(?i:id|is)\b){0,6}"
        r"(?P<value>[A-Za-z][A-Za-z0-9_-]{5,19})(?![\w-])",
    ),
)
"""Longer and surer forms first: a telephone pattern would match inside an identity number."""


def scrub(text: str) -> tuple[str, int]:
    """The text with personal data replaced by placeholders, and how many were replaced."""
    count = 0
    while True:  # what stands beside a placeholder may only now be seen as a whole
        text, replaced = _replace(text)
        if not replaced:
            return text, count
        count += replaced


def _replace(text: str) -> tuple[str, int]:
    spans: list[tuple[int, int, str]] = []
    folded = text.translate(_FULL_WIDTH)
    for placeholder, start, end in _found(folded):
        if all(end <= other[0] or start >= other[1] for other in spans):
            spans.append((start, end, placeholder))
    for start, end, placeholder in sorted(spans, reverse=True):
        text = text[:start] + placeholder + text[end:]
    return text, len(spans)


def _found(text: str) -> Iterator[tuple[str, int, int]]:
    for placeholder, pattern, check in _RECOGNIZERS:
        for match in pattern.finditer(text):
            group = "value" if "value" in pattern.groupindex else 0
            if check(match[group]):
                yield placeholder, *match.span(group)
