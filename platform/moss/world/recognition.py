"""Understand a text: which kind of question it is and what it is about, from its words alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from moss.types import Language
from moss.world.numbers import find_equations, find_expressions
from moss.world.question import Kind, Question
from moss.world.slots import FIELDS, OPTIONAL, answer_of, fill
from moss.world.tables import entities, facts_of, tables

Payload = dict[str, str]

_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff01-\uff5e]")
_MAX_CHARACTERS = 600
"""Longer texts are not questions of the domain; reading stays cheap."""


def _cue(english: str, chinese: str) -> dict[Language, re.Pattern[str]]:
    return {"en": re.compile(english, re.IGNORECASE), "zh": re.compile(chinese, re.IGNORECASE)}


_CUES: Final[dict[Kind, dict[Language, re.Pattern[str]]]] = {
    "harmful": _cue(
        r"\b(?:steal|stolen|bomb|weapon|kill|poison|hack|rob\b|threaten|bully|fake|cheat|explosive)",
        "偷|炸弹|武器|杀|毒|盗取|盗窃|抢|威胁|欺负|伪造|作弊|假护照|撒谎|散布",
    ),
    "code": _cue(r"\b(?:python|code|program)\b", "python|代码|函数|程序"),
    "sentiment": _cue(r"positive|negative", "正面|负面"),
    "role_play": _cue(
        r"\bpretend|\brole of|\bimagine you are|\bact as|\bin a play|\bplay (?:an?|the)\b"
        r"|you are an? ",
        "假装|扮演|想象你是|来当|戏里|当一[名个位]",
    ),
    "brainstorming": _cue(r"\bideas?\b|\bsuggest", "点子|主意|建议|想法"),
    "image": _cue(r"\bdraw|\bpaint\b|\bpicture|\bimage", "画|图片|张图"),
    "writing": _cue(
        r"\bwrite|\bcompose|\bpoem|\bstory|\bletter|\bspeech|\bnote\b|the topic is",
        "写|诗|故事|演讲|便条|为题|一封信|一句话",
    ),
}
_ATTRIBUTES: Final[dict[str, dict[Language, re.Pattern[str]]]] = {
    "capital": _cue("capital", "首都"),
    "currency": _cue("currency|money|pay with", "货币|什么钱"),
    "continent": _cue("continent", "洲"),
    "symbol": _cue("symbol", "符号"),
    "number": _cue("atomic number", "序数"),
    "author": _cue(r"\bauthor|\bwrote|\bwritten|\bwriter", "作者|谁写|写的"),
    "country": _cue(r"\bcountry\b|\bwhere is", "国家|在哪"),
}
_TRAITS: Final[dict[str, dict[Language, re.Pattern[str]]]] = {
    "limits": _cue(
        r"\byou (?:not|never) |you (?:cannot|can't)|your limits?|too hard for you|are you unable",
        "你不能|你做不到|你的?局限|你有什么局限|你不会|你不可以|什么是你",
    ),
    "name": _cue(
        r"your (?:\w+ )?name|you have a name|who are you|call you\b",
        "名字|你是谁(?!.{0,3}(?:开发|创造|做))|称呼你|怎么叫你",
    ),
    "creator": _cue(
        r"(?:made|created|built|developed|trained|behind) you"
        r"|you (?:made|created|built|developed) by"
        r"|your (?:\w+ )?(?:developer|creator|maker|team)",
        "谁.{0,4}[了的]你|你.{0,3}谁.{0,3}(?:开发|创造|做)|开发者|创造者|团队",
    ),
    "birthday": _cue(
        r"your birthday|when (?:were|was|are|did) (?:you|your)|old are you|your age|years old are",
        "你的?生日|什么时候|你多大|你几岁|你的年龄|哪天出生|哪一天",
    ),
    "birthplace": _cue(
        r"where (?:were|are|do|did) you|you (?:born|made) in|place were you",
        "哪里|出生地|什么地方",
    ),
    "languages": _cue(
        r"languages?\b.*you|you\b.*languages?|you (?:speak|understand|read|write) \w+",
        "语言|英语|中文|英文",
    ),
    "nature": _cue(
        r"(?:are|do) you .*(?:human|person|machine|robot|body|alive|real|program|feelings)",
        "你.{0,4}(?:人|机器|真人|身体|程序|活的|感情)",
    ),
    "abilities": _cue(
        r"what .*(?:can|could) you|are you good at|you help me with|can you do"
        r"|your (?:skills|abilities|tasks)",
        "你.{0,4}(?:做什么|擅长|做哪些|帮我做什么|会什么|本领|功能)",
    ),
}  # fmt: skip


def language_of_text(text: str) -> Language:
    """Chinese if any Chinese character or full-width mark stands in it."""
    return "zh" if _CHINESE.search(text) else "en"


@lru_cache(maxsize=8192)
def recognize(text: str) -> Question | None:
    """The question that a text asks, or None if it is outside the domain."""
    if len(text) > _MAX_CHARACTERS:
        return None
    language = language_of_text(text)
    for kind, find in _READERS.items():
        payload = find(text, language)
        if payload is not None:
            slots = fill(kind, payload, language)
            answer = answer_of(kind, payload, language, slots)
            return Question(text, kind, language, answer, payload)
    return None


def _harmful(text: str, language: Language) -> Payload | None:
    misdeed = tables()["misdeed"].find(text, language)
    if misdeed is None and not _CUES["harmful"][language].search(text):
        return None
    return {"misdeed": misdeed or ""}


def _code(text: str, language: Language) -> Payload | None:
    if not _CUES["code"][language].search(text):
        return None
    for key, pattern in _task_patterns(language).items():
        if found := pattern.search(text):
            return {"task": key, "n": found[1]}
    return None


@lru_cache
def _task_patterns(language: Language) -> Mapping[str, re.Pattern[str]]:
    return {
        key: re.compile(re.escape(row.slots[language]["task"]).replace(r"\{n\}", r" ?(\d{1,6}) ?"))
        for key, row in tables()["task"].rows.items()
    }


def _equation(text: str, language: Language) -> Payload | None:  # noqa: ARG001 same signature as its kin
    equations = find_equations(text)
    return {"equation": ";".join(equations[:2])} if equations else None


def _arithmetic(text: str, language: Language) -> Payload | None:  # noqa: ARG001 same signature as its kin
    expressions = find_expressions(text)
    return {"expression": ";".join(expressions[:4])} if expressions else None


def _fact(text: str, language: Language) -> Payload | None:
    entity = entities().find(text, language)
    if entity is None:
        return None
    for attribute, fact in facts_of(entity).items():
        if _ATTRIBUTES[attribute][language].search(text):
            return {"fact": fact.id, "attribute": attribute}
    return None


def _identity(text: str, language: Language) -> Payload | None:
    if language == "zh" and "你" not in text:
        return None
    for trait, cue in _TRAITS.items():
        if cue[language].search(text):
            return {"trait": trait}
    return None


def _from_tables(kind: Kind) -> Callable[[str, Language], Payload | None]:
    def read(text: str, language: Language) -> Payload | None:
        cue = _CUES.get(kind)
        if cue is not None and not cue[language].search(text):
            return None
        payload: Payload = {}
        for name in FIELDS[kind]:
            key = tables()[name].find(text, language)
            if key is None and name not in OPTIONAL:
                return None
            payload[name] = OPTIONAL[name] if key is None else key
        return payload

    return read


_READERS: Final[dict[Kind, Callable[[str, Language], Payload | None]]] = {
    "harmful": _harmful,
    "code": _code,
    "sentiment": _from_tables("sentiment"),
    "role_play": _from_tables("role_play"),
    "equation": _equation,
    "arithmetic": _arithmetic,
    "brainstorming": _from_tables("brainstorming"),
    "fact": _fact,
    "image": _from_tables("image"),
    "writing": _from_tables("writing"),
    "identity": _identity,
    "chat": _from_tables("chat"),
}
"""Readers in the order they are tried: the narrow cues first."""
