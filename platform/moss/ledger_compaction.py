"""Make one large ledger file of the many that callers leave behind."""

from __future__ import annotations

from pathlib import Path

from moss import storage
from moss.ledger_packs import DATA, INDEX, MERGED, Pack, list_ledger, open_pack, write_pack
from moss.ledger_writers import is_being_written, new_name, new_writer

FROM_FILES = 4
FROM_BYTES = 64 << 20
"""A dead writer's file of this size is packed at once; smaller ones wait for company."""
MAX_PACKS = 8
"""Every look-up of an unknown key searches each pack."""


def compact(folder: str) -> None:
    """Pack the files of dead writers, and merge packs when there are many.

    Safe beside living writers and readers: a file in use is left alone, and a reader that finds a
    file gone lists the folder again. Call it as the run's one controller. A kill at any moment
    loses nothing and counts nothing twice.
    """
    folder = storage.absolute(folder)
    listing = list_ledger(folder)
    opened = {name: open_pack(folder, name) for name in listing.packs}
    replaced = {name for pack in opened.values() for name in pack.replaces}
    for name in [*(n for n in (*listing.packs, *listing.loose) if n in replaced), *listing.torn]:
        _remove(folder, name)  # an earlier compaction was killed before it came to this
    dead = [name for name in listing.loose if name not in replaced and not _is_in_use(folder, name)]
    sources: list[tuple[str, Pack | None]] = [(name, None) for name in dead]
    packs = [(name, pack) for name, pack in opened.items() if name not in replaced]
    if len(packs) > MAX_PACKS:
        sources = [*packs, *sources]
    if len(sources) < FROM_FILES and not any(_is_large(folder, name) for name in dead):
        return
    write_pack(folder, MERGED + new_name(new_writer()), sources)
    for name, _ in sources:
        _remove(folder, name)


def _is_in_use(folder: str, name: str) -> bool:
    return not storage.is_remote(folder) and is_being_written(Path(folder) / (name + DATA))


def _is_large(folder: str, name: str) -> bool:
    return storage.size_bytes(storage.join(folder, name + DATA)) >= FROM_BYTES


def _remove(folder: str, name: str) -> None:
    # The data first: an index alone is nothing, but data alone would be read as a writer's file.
    storage.remove(storage.join(folder, name + DATA))
    storage.remove(storage.join(folder, name + INDEX))
