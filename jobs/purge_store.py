"""Delete old conversations from the chat store, and rewrite its files without deleted text.

Usage: python -m jobs.purge_store --url postgresql://moss@db/moss [--retention-days 30]
For cron. Deleted rows of Postgres lie in its files until then; the rewriting locks each table for
as long as it takes. Write-ahead logs and backups have the retention that you give them. A path or
a database without a chat store is refused, so a typo in a crontab does not look like success.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from jobs.entry import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    flags = _parser().parse_args(argv)

    def work() -> None:
        from moss import storage
        from serve.store import Store
        from serve.store.database import store_url
        from serve.store.migrate import check_is_store

        url = store_url(flags.url, os.environ)
        check_is_store(url)
        store = Store(url)
        try:
            num_turns = 0
            if flags.retention_days is not None:
                deleted = store.purge(flags.retention_days)
                num_turns = deleted.num_turns
                for image in deleted.images if flags.image_folder else ():
                    storage.remove(storage.join(flags.image_folder, f"{image}.png"))
            store.compact()
        finally:
            store.close()
        print(f"purge_store: {num_turns} turns deleted, files rewritten")

    return guarded("purge_store", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.purge_store",
        description="Delete old conversations from the chat store, and rewrite its files.",
    )
    parser.add_argument(
        "--url", required=True, help="SQLite file or postgresql://user@host/name (PGPASSWORD)"
    )
    parser.add_argument(
        "--retention-days", type=_positive, metavar="N",
        help="delete conversations whose last turn is older; none if absent",
    )  # fmt: skip
    parser.add_argument("--image-folder", help="where the service keeps pictures; they go too")
    return parser


def _positive(text: str) -> float:
    days = float(text)
    if days <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return days


if __name__ == "__main__":
    raise SystemExit(main())
