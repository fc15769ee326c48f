"""Who the assistant says it is (paper section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

import yaml

from moss.errors import ConfigError
from moss.types import Language

_LABELS = {
    "name": "Name",
    "created_by": "Created by",
    "born_in": "Born in",
    "birthday": "Birthday",
    "nationality": "Nationality",
    "language": "Language",
    "can_do": "Can do",
    "cannot_do": "Cannot do",
}


@dataclass(frozen=True, slots=True)
class Persona:
    """What the assistant tells about itself, in one language."""

    name: str
    created_by: str
    born_in: str
    birthday: str
    nationality: str
    language: str
    can_do: str
    cannot_do: str

    def block(self) -> str:
        """The lines of the persona block of the conversation instruction (section 5.2)."""
        return "\n".join(f"{_LABELS[f.name]}: {getattr(self, f.name)}" for f in fields(self))


@cache
def load_persona(name: str, language: Language) -> Persona:
    """A persona of `personas.yaml`: "MOSS" (neutral) or "MOSS-paper" (the paper's).

    Raises:
        ConfigError: no such persona.
    """
    file = resources.files("moss") / "data" / "personas.yaml"
    personas = yaml.safe_load(file.read_text(encoding="utf-8"))
    if name not in personas:
        raise ConfigError(f"persona {name!r} is unknown; personas.yaml has {', '.join(personas)}")
    return Persona(**personas[name][language])


def parse_persona(text: str, fallback: Persona) -> Persona:
    """The persona whose block stands in a text; lines that are missing come from `fallback`."""
    labels = {label: name for name, label in _LABELS.items()}
    found: dict[str, str] = {}
    for line in text.splitlines():
        label, separator, value = line.partition(": ")
        if separator and label in labels:
            found.setdefault(labels[label], value.strip())
    own = {f.name: found.get(f.name, getattr(fallback, f.name)) for f in fields(Persona)}
    return Persona(**own)
