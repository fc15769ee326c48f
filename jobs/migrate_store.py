"""Bring the chat store's tables to a revision, up or down.

Usage: python -m jobs.migrate_store --url sqlite:////data/chat.sqlite [--to head]
The service does this by itself when it starts; run it by hand before an older version of the
service is deployed again, with the older one's last revision. A SQLite file that is not there is
made with `--create` only.
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
        from moss.errors import ConfigError
        from serve.store.database import Database, check_exists, store_url
        from serve.store.migrate import BASE, migrate, num_conversations

        url = store_url(flags.url, os.environ)
        if not flags.create:
            check_exists(url)
        database = Database(url)
        try:
            if flags.to == BASE and not flags.delete_everything:
                count = num_conversations(database)
                if count:
                    raise ConfigError(
                        f"--to {BASE} drops the tables with {count} conversations; add "
                        "--delete-everything if that is meant"
                    )
            before, after = migrate(database, flags.to)
        finally:
            database.close()
        print(f"migrate_store: {before or 'empty'} -> {after or 'empty'}")

    return guarded("migrate_store", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.migrate_store",
        description="Bring the chat store's tables to a revision, up or down.",
    )
    parser.add_argument(
        "--url", required=True, help="SQLite file or postgresql://user@host/name (PGPASSWORD)"
    )
    parser.add_argument(
        "--to", default="head", metavar="REV|base|head", help="default: head, the newest"
    )
    parser.add_argument(
        "--create", action="store_true", help="make the SQLite file if it is not there"
    )
    parser.add_argument(
        "--delete-everything", action="store_true", help="with --to base: drop what users wrote"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
