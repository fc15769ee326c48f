"""The rows that rows were made from, run by run, down to seeds and served prompts.

A row's parents stand in its own run (Self-Instruct shows prompts that it accepted before) or in the
runs that its run read. Files are scanned once per generation and run, a row group in memory at a
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import basename

from moss import storage
from moss.errors import ManifestError
from moss.manifest import load_manifest
from moss.recipes import Row
from moss.run_identity import input_folder
from moss.seeds import load_demonstrations, load_red_team, load_seeds

BUNDLED = "bundled"
"""Stands for a run where a parent is a seed that ships with the platform."""
MAX_GENERATIONS = 24


@dataclass(frozen=True, slots=True)
class Place:
    """A run's files of rows, and the runs it read."""

    folder: str
    files: tuple[str, ...]
    """Paths below the folder."""
    inputs: tuple[str, ...]
    """Folders."""

    @property
    def run_id(self) -> str:
        """Its name."""
        return basename(self.folder)


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A row that others were made from, or a bundled seed."""

    run_id: str
    row: Row


Key = tuple[str, str]
"""Folder of the run (or `BUNDLED`) and id of the row."""


class AncestorSearch:
    """Finds the ancestors of rows of one run.

    Args:
        place: the run of the rows; it needs no manifest yet.
        limit: most ancestors to hold; what lies beyond stays unresolved.
    """

    def __init__(self, place: Place, *, limit: int) -> None:
        self._place = place
        self._limit = limit
        self._places: dict[str, Place | None] = {place.folder: place}
        self._bundled = _bundled_rows()
        self.found: dict[Key, Ancestor] = {}
        self._resolved: dict[Key, Key] = {}
        """(Folder of the child's run, id of a parent) -> the parent's key."""

    def search(self, rows: Iterable[Row]) -> None:
        """Find parents, their parents, and so on."""
        wanted = {(self._place.folder, parent) for row in rows for parent in parents_of(row)}
        for _ in range(MAX_GENERATIONS):
            wanted = {key for key in wanted if key not in self._resolved}
            if not wanted or len(self.found) >= self._limit:
                return
            wanted = self._generation(wanted)

    def parents(self, row: Row, folder: str | None = None) -> list[Key | None]:
        """Keys of a row's parents, None for one that was not found; `folder` is the row's run."""
        place = folder or self._place.folder
        return [self._resolved.get((place, parent)) for parent in parents_of(row)]

    def _generation(self, wanted: set[Key]) -> set[Key]:
        """Resolve what is wanted; returns the parents of what was found anew."""
        following: set[Key] = set()
        for folder in sorted({folder for folder, _ in wanted}):
            ids = {parent for place, parent in wanted if place == folder}
            for source in self._sources(folder):
                for key, ancestor in self._look(source, ids):
                    self._resolved[folder, key[1]] = key
                    ids.discard(key[1])
                    if key not in self.found and len(self.found) < self._limit:
                        self.found[key] = ancestor
                        following |= {(key[0], parent) for parent in parents_of(ancestor.row)}
        return following

    def _sources(self, folder: str) -> list[str]:
        place = self._place_of(folder)
        return [folder, *(place.inputs if place else ()), BUNDLED]

    def _look(self, source: str, ids: set[str]) -> Iterator[tuple[Key, Ancestor]]:
        if source == BUNDLED:
            for row_id in sorted(ids & self._bundled.keys()):
                yield (BUNDLED, row_id), Ancestor(BUNDLED, self._bundled[row_id])
            return
        place = self._place_of(source)
        for file in place.files if place else ():
            if ids:
                for row in rows_with_ids(storage.join(source, file), frozenset(ids)):
                    yield (source, str(row["id"])), Ancestor(basename(source), row)

    def _place_of(self, folder: str) -> Place | None:
        """A run that was cleared away since has no place; its rows stay unresolved."""
        if folder not in self._places:
            self._places[folder] = _finished_place(folder)
        return self._places[folder]


def _finished_place(folder: str) -> Place | None:
    try:
        manifest = load_manifest(folder)
    except ManifestError:
        return None
    return Place(
        folder,
        tuple(item.path for item in manifest.outputs if item.path.endswith(".parquet")),
        tuple(input_folder(folder, item) for item in manifest.inputs.values()),
    )


def rows_with_ids(path: str, ids: frozenset[str]) -> Iterator[Row]:
    """Rows of a Parquet file by id; row groups without one are skipped, other files ignored."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    values = pa.array(sorted(ids), pa.string())
    with storage.open_binary(path) as source:
        file = pq.ParquetFile(source)
        if "id" not in file.schema_arrow.names:
            return
        for number in range(file.num_row_groups):
            found = pc.is_in(file.read_row_group(number, columns=["id"])["id"], value_set=values)
            if pc.any(found).as_py():
                yield from file.read_row_group(number).filter(found).to_pylist()


def parents_of(row: Mapping[str, object]) -> Sequence[str]:
    """Ids that a row names as its parents, each once."""
    parents = row.get("parents")
    return list(dict.fromkeys(map(str, parents))) if isinstance(parents, list) else []


def _bundled_rows() -> dict[str, Row]:
    seeds = [*load_seeds(), *load_red_team()]
    rows: dict[str, Row] = {
        seed.id: {
            "id": seed.id,
            "text": seed.text,
            "language": seed.language,
            "category": seed.category,
            "source": "seed",
        }
        for seed in seeds
    }
    for item in load_demonstrations():
        rows[item.id] = {
            "id": item.id,
            "text": item.query,
            "language": item.language,
            "category": item.tool,
            "source": "demonstration",
        }
    return rows
