"""Configuration as data: frozen pydantic models, YAML files, dotted overrides."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from moss.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    execution_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that say where and how a run is carried out, not what it makes: under other values of
    them a run goes on, and stays finished."""


class StageConfig(Config):
    """What every stage of the road needs: where its run lives and the seed it draws from."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"workspace"})
    reads_any_storage: ClassVar[bool] = False
    """Whether the stage may run on an object store: true where no checkpoint is made or read."""

    workspace: str = Field("runs/tiny", min_length=1)
    """Folder that holds the runs of one road; for datasets alone an fsspec URL serves too."""
    run_id: str
    """Name of this run inside the workspace; for a checkpoint, the model's name (MOSS-SFT)."""
    seed: int = 42

    def run_path(self, reference: str) -> str:
        """Path of another run: a bare run id of this workspace, or a path or URL as it stands."""
        return reference if "/" in reference else f"{self.workspace.rstrip('/')}/{reference}"


C = TypeVar("C", bound=Config)

_KEY_PART = re.compile(r"""\"([^\"]+)\"|'([^']+)'|([^."'=]+)""")
"""One part of an override's key: in quotes, or without dots."""


def load_config(config_class: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file, apply `a.b=value` overrides (values are YAML), validate.

    A part of an override's key that holds dots stands in quotes: `prices."gpt-3.5".prompt=1`.

    Raises:
        ConfigError: file missing or not a mapping, unknown key (with the nearest known one), or a
            value out of bounds; every fault of the file in one message.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"config file {file} does not exist; check --config")
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), UniqueKeys) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file} holds a {type(data).__name__}, expected a mapping of keys")
    for override in overrides:
        _apply_override(data, override)
    source = " ".join([str(file), *(f"--set {override}" for override in overrides)])
    try:
        return parse_config(config_class, data, source=source)
    except ConfigError as error:
        hints = "".join(_quoting_hint(config_class, override) for override in overrides)
        raise ConfigError(f"{error}{hints}") from error


def parse_config(config_class: type[C], data: Mapping[str, object], *, source: str) -> C:
    """Validate a mapping; see `load_config`. `source` names it in messages."""
    try:
        return config_class.model_validate(dict(data))
    except ValidationError as error:
        lines = [_describe(config_class, dict(item)) for item in error.errors()]
        raise ConfigError(f"{source}:\n" + "\n".join(f"  - {line}" for line in lines)) from error


def config_digest(config: Config) -> str:
    """sha256 of the resolved config in canonical JSON, hex."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def execution_paths(config: Config) -> Iterator[str]:
    """Dotted `execution_keys` of a config and its sections."""
    yield from config.execution_keys
    for name in type(config).model_fields.keys() - config.execution_keys:
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from (f"{name}.{path}" for path in execution_paths(value))


def dump_config(config: Config) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping; YAML's own way is that the last one wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, its keys checked."""
        lines: dict[object, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if isinstance(key, str) and lines.setdefault(key, line) != line:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} stands in line {lines[key]} and again in line {line}; "
                    "keep one",
                    problem_mark=key_node.start_mark,
                )
        return super().construct_mapping(node, deep)


def _apply_override(data: dict[str, object], override: str) -> None:
    (*parents, leaf), text = _split_override(override)
    node = data
    for name in parents:
        child = node.get(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {name!r} is a value, not a section")
        # A copy: sections that share a YAML anchor are one object.
        node[name] = node = dict(child)
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error


def _split_override(override: str) -> tuple[list[str], str]:
    """The parts of an override's key, quotes taken off, and its value."""
    parts: list[str] = []
    end = 0
    while part := _KEY_PART.match(override, end):
        parts.append(next(text for text in part.groups() if text is not None))
        end = part.end()
        if override[end : end + 1] != ".":
            break
        end += 1
    if not parts or override[end : end + 1] != "=":
        raise ConfigError(
            f"override {override!r} is not of the form section.key=value; a part of the key that "
            "holds dots stands in quotes: 'section.\"a.b\".key=value'"
        )
    return parts, override[end + 1 :]


def _quoting_hint(config_class: type[BaseModel], override: str) -> str:
    """How to write a key that goes on below a name, if that name was meant to hold its dots."""
    parts, text = _split_override(override)
    sections = [config_class]
    for number, part in enumerate(parts, 1):
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        sections = [model for field in fields for model in _models_in(field.annotation)]
        if not any(_holds_names(field.annotation) for field in fields):
            continue
        name, leaf = (parts[number:-1], parts[-1:]) if sections else (parts[number:], [])
        if len(name) > 1:
            key = ".".join([*parts[:number], f'"{".".join(name)}"', *leaf])
            return f"\n  - a name that holds dots stands in quotes: --set '{key}={text}'"
    return ""


def _holds_names(annotation: object) -> bool:
    """Whether a key holds a mapping of names, not of names to further mappings."""
    return get_origin(annotation) is dict and get_origin(get_args(annotation)[1]) is not dict


def _describe(config_class: type[Config], error: dict[str, object]) -> str:
    location = error["loc"]
    assert isinstance(location, tuple)
    # pydantic marks a fault of a mapping's key so; the key itself stands before it.
    dotted = ".".join(str(part) for part in location if part != "[key]")
    if error["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}{_near_match(config_class, location)}"
    if error["type"] == "missing":
        return f"key {dotted!r} is missing; it has no default"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    came = "" if isinstance(given, Mapping | BaseModel) else f" (got {given!r})"
    return f"{dotted}: {message}{came}" if dotted else message


def _near_match(config_class: type[BaseModel], location: tuple[object, ...]) -> str:
    """A hint at the key that was meant: one of the same section, else one of another section."""
    *parents, key = map(str, location)
    sections = [config_class]
    for name in parents:
        inner = [model for section in sections for model in _models_at(section, name)]
        sections = inner or sections  # an index into a list names no field
    known = sorted({name for section in sections for name in section.model_fields})
    if near := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return f"; did you mean {'.'.join([*parents, near[0]])!r}?"
    paths = (path.replace("[]", "") for path, _ in walk_keys(config_class))
    elsewhere = {path.rpartition(".")[2]: path for path in paths}
    if near := difflib.get_close_matches(key, list(elsewhere), n=1, cutoff=0.8):
        return f"; did you mean {elsewhere[near[0]]!r}?"
    return f"; known keys: {', '.join(known)}"


def _models_at(section: type[BaseModel], name: str) -> Iterator[type[BaseModel]]:
    if field := section.model_fields.get(name):
        yield from _models_in(field.annotation)


def walk_keys(config_class: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its field, dotted; a section comes before its keys, `[]` marks list items."""
    for name, field in config_class.model_fields.items():
        yield name, field
        for model in _models_in(field.annotation):
            holder = name if is_section(field) else f"{name}[]"
            yield from ((f"{holder}.{key}", inner) for key, inner in walk_keys(model))


def is_section(field: FieldInfo) -> bool:
    """Whether a key holds one config class, and so no value of its own."""
    return list(_models_in(field.annotation)) == [field.annotation]


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The config classes that an annotation names: itself, or those inside `tuple[...]`, `|`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
