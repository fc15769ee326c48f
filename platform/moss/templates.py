"""Prompt templates as versioned data files: what the teacher is asked, in each language.

A template file begins with `# version: N; slots: a, b`. Rendering fills all slots in one pass, so
braces in what users wrote are plain text. `extract` is the inverse, for whoever has to read a
rendered prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

from moss.errors import ConfigError, DataError
from moss.types import LANGUAGES, Language

_HEADER = re.compile(r"# version: (\d+); slots: ([a-z_]+(?:, [a-z_]+)*)\n")
_SLOT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Template:
    """One prompt text with named slots."""

    name: str
    language: Language
    version: int
    slots: tuple[str, ...]
    text: str

    @property
    def label(self) -> str:
        """Name, language and version, as rows record it: `judge_pair.en@1`."""
        return f"{self.name}.{self.language}@{self.version}"

    def render(self, **values: object) -> str:
        """The prompt with every slot filled.

        Raises:
            DataError: a slot is missing or unknown.
        """
        if values.keys() != set(self.slots):
            raise DataError(
                f"template {self.name}.{self.language} needs the slots {', '.join(self.slots)}; "
                f"got {', '.join(sorted(values)) or 'none'}"
            )
        return _SLOT.sub(lambda slot: str(values[slot[1]]), self.text)

    def extract(self, prompt: str) -> tuple[dict[str, str], str] | None:
        """The slots of a prompt that this template rendered, and what stands after it.

        None if the prompt does not come from this template. A slot value that itself holds the text
        between two slots is cut there.
        """
        if not prompt.startswith(self._opening):
            return None
        found = self._pattern.match(prompt)
        return None if found is None else (found.groupdict(), prompt[found.end() :])

    @cached_property
    def _opening(self) -> str:
        return _SLOT.split(self.text, maxsplit=1)[0]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = _SLOT.split(self.text)
        literals = [re.escape(part) for part in parts[::2]]
        groups = [f"(?P<{name}>.*?)" for name in parts[1::2]]
        body = "".join(literal + group for literal, group in zip(literals, groups, strict=False))
        return re.compile(body + literals[-1], re.DOTALL)


@cache
def load_template(name: str, language: Language) -> Template:
    """A bundled template.

    Raises:
        ConfigError: there is none of that name.
        DataError: its header and its slots disagree.
    """
    file = resources.files("moss") / "data" / "templates" / f"{name}.{language}.txt"
    if not file.is_file():
        raise ConfigError(f"no template {name!r} in {language!r}; known: {', '.join(names())}")
    return parse_template(name, language, file.read_text(encoding="utf-8"))


def parse_template(name: str, language: Language, source: str) -> Template:
    """Read a template file's text.

    Raises:
        DataError: no header, or the declared slots are not those of the text.
    """
    header = _HEADER.match(source)
    if header is None:
        raise DataError(
            f"template {name}.{language} does not begin with '# version: N; slots: a, b'"
        )
    declared = tuple(header[2].split(", "))
    text = source[header.end() :].removesuffix("\n")
    used = _SLOT.findall(text)
    if sorted(used) != sorted(declared):
        raise DataError(
            f"template {name}.{language} declares the slots {', '.join(declared)} and uses "
            f"{', '.join(used) or 'none'}; each declared slot must stand in the text once"
        )
    return Template(name, language, int(header[1]), declared, text)


@cache
def names() -> tuple[str, ...]:
    """Names of the bundled templates."""
    folder = resources.files("moss") / "data" / "templates"
    suffixes = tuple(f".{language}.txt" for language in LANGUAGES)
    found = {file.name.split(".")[0] for file in folder.iterdir() if file.name.endswith(suffixes)}
    return tuple(sorted(found))
