"""Which exported prompts their users took back since, and which runs were made from them."""

from __future__ import annotations

from moss import storage
from moss.config.synthesis import CollectPromptsConfig
from moss.errors import ConfigError
from moss.lineage import is_finished, load_manifest, run_folder
from moss.manifest import finished_runs
from moss.row_files import NamedRows
from moss.served_prompts import forgotten_rows, is_store
from moss.synthesis_inputs import served_source

EXPORT = "data/collected.parquet"


def taken_back(config: CollectPromptsConfig) -> list[str]:
    """Ids of rows of a finished export whose turn was deleted, or whose consent was withdrawn.

    Raises:
        ConfigError: the source is no store, so nothing says what was taken back.
        ManifestError: the export is altered.
    """
    source = served_source(config)
    if source is None or not is_store(source):
        raise ConfigError(
            f"source={config.source!r} is no store of the chat service; only a store knows which "
            "turns were deleted, so give the one that the prompts came from: --set source=..."
        )
    folder = run_folder(config)
    if not is_finished(folder):
        return []  # it reads the store anew
    forgotten = forgotten_rows(source)
    return [
        str(row["id"])
        for row in NamedRows(folder, EXPORT)
        if row["text"] and str(row["id"]) in forgotten
    ]


def runs_made_from(workspace: str, run_id: str) -> list[str]:
    """Finished runs of the workspace that read a run, or read what was made from it, sorted."""
    root = storage.absolute(workspace)
    parents = {
        name: {item.path for item in load_manifest(storage.join(root, name)).inputs.values()}
        for name in finished_runs(root)
    }
    found = {run_id}
    while grown := {name for name, above in parents.items() if above & found} - found:
        found |= grown
    return sorted(found - {run_id})
