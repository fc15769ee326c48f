"""Meta-instructions: the text before the first turn, with one switch line per capability.

Each version is a data file, so that a checkpoint can say by name which bytes it was trained on:
`moss-002` (warm-up prefix, paper section 5.2), `moss-003` (the released text, paper section 8.1)
and `tiny` (the same switches in a few tokens, for models with a short context).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import chain, combinations

import yaml

from moss.errors import ChatFormatError, ConfigError
from moss.types import TOOL_NAMES, ToolName

VERSIONS = ("moss-002", "moss-003", "tiny")


@dataclass(frozen=True, slots=True)
class MetaInstruction:
    """Which text opens the conversation and which switches are on."""

    version: str
    inner_thoughts: bool = False
    tools: frozenset[ToolName] = frozenset()

    @property
    def text(self) -> str:
        """The rendered meta-instruction, ending in a line break.

        Raises:
            ConfigError: no such version, or a switch that the version has no line for.
        """
        return _render(self)


@cache
def _render(meta: MetaInstruction) -> str:
    template = _load(meta.version)
    enabled = {*meta.tools, *(("inner_thoughts",) if meta.inner_thoughts else ())}
    lines = [template.opening]
    for switch in template.switches:
        lines.append(switch["enabled" if switch["name"] in enabled else "disabled"])
    if missing := enabled - {switch["name"] for switch in template.switches}:
        raise ConfigError(
            f"meta-instruction {meta.version!r} has no switch for {', '.join(sorted(missing))}"
        )
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class _Template:
    opening: str
    switches: list[dict[str, str]]


@cache
def _load(version: str) -> _Template:
    if version not in VERSIONS:
        raise ConfigError(f"meta-instruction {version!r} is unknown; use {', '.join(VERSIONS)}")
    file = resources.files("moss") / "data" / "meta_instructions" / f"{version}.yaml"
    return _Template(**yaml.safe_load(file.read_text(encoding="utf-8")))


@cache
def _by_text() -> dict[str, MetaInstruction]:
    subsets = list(
        chain.from_iterable(combinations(TOOL_NAMES, n) for n in range(len(TOOL_NAMES) + 1))
    )
    known: dict[str, MetaInstruction] = {}
    for version in VERSIONS:
        for thoughts in (False, True):
            for tools in subsets:
                meta = MetaInstruction(version, thoughts, frozenset(tools))
                try:
                    known[meta.text] = meta
                except ConfigError:  # a version without switches renders only the empty set
                    continue
    return known


def parse_meta_instruction(text: str) -> MetaInstruction:
    """Inverse of `MetaInstruction.text`.

    Raises:
        ChatFormatError: no version renders to this text.
    """
    try:
        return _by_text()[text]
    except KeyError:
        raise ChatFormatError(
            f"meta-instruction {text[:60]!r} is none of {', '.join(VERSIONS)}"
        ) from None
