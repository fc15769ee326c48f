"""Make an API key of the chat service: print it once, add its hash to the file of keys.

Usage: python -m jobs.make_api_key --label alice [--expires 2030-01-31] [--tools calculator]
The service reads the file that `http.api_key_file` names, and reads it again when it changes. To
revoke a key, write `revoked: true` into its entry.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.entry import guarded
from moss.api_keys import append_key, key_digest, new_key
from moss.config import parse_config
from moss.config.api_keys import ApiKeyConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    flags = vars(_parser().parse_args(argv))
    path = Path(flags.pop("file"))

    def work() -> None:
        key = new_key()
        given = {name: value for name, value in flags.items() if value is not None}
        entry = parse_config(ApiKeyConfig, {"sha256": key_digest(key), **given}, source="flags")
        append_key(path, entry)
        print(key)
        print(f"make_api_key: {entry.label!r} is in {path}; the key is shown once", file=sys.stderr)

    return guarded("make_api_key", work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.make_api_key",
        description="Make an API key of the chat service; the limits and scopes of its entry can "
        "be changed in the file at any time.",
    )
    parser.add_argument("--label", required=True, help="whose key it is")
    parser.add_argument(
        "--file", default="api_keys.yaml", help="the file of keys (default: api_keys.yaml)"
    )
    parser.add_argument("--expires", metavar="TIME", help="such as 2030-01-31 or 2030-01-31T12:00Z")
    parser.add_argument("--tools", nargs="*", metavar="NAME", help="all if absent; none if empty")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="all if absent")
    for flag in ("--requests-per-minute", "--tokens-per-minute", "--max-ongoing"):
        parser.add_argument(flag, type=int, metavar="N", help="no limit if absent")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
