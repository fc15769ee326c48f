"""Release a served model to a share of users or to all of them, or take the last step back.

Usage: python -m jobs.promote --model MOSS-PAT --share 0.1     (a canary)
       python -m jobs.promote --model MOSS-PAT                 (everybody)
       python -m jobs.promote --rollback
Writes the file that `release_file` of the chat service names; the running service obeys within the
next request. A model that loses against the stable one in the evaluation is refused, and one that
no run of the workspace made.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.entry import guarded
from moss.errors import ConfigError, ManifestError

if TYPE_CHECKING:
    from moss.releases import Release


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry."""
    flags = _parser().parse_args(argv)

    def work() -> None:
        from moss.releases import write_release

        path = Path(flags.file)
        release = next_release(path, flags)
        write_release(path, release)
        canary = f", {release.canary} for {release.canary_share:.1%} of users"
        print(f"promote: {release.stable} is released{canary if release.canary else ''} ({path})")

    return guarded("promote", work)


def next_release(path: Path, flags: argparse.Namespace) -> Release:
    """What the flags make of the present release.

    Raises:
        ConfigError: no run made the model, it loses against the stable one, or the evaluation does
            not say; or there is nothing to undo.
    """
    from moss.releases import Release, read_release

    if flags.rollback:
        return read_release(path).rolled_back()
    workspace = flags.workspace or str(Path(flags.evaluation).parent)
    _refuse_an_unknown(flags.model, workspace)
    if not path.exists():
        if flags.share < 1:
            raise ConfigError(f"{path} has no release yet; release a model to everybody first")
        return Release(stable=flags.model)
    release = read_release(path)
    if not flags.skip_evaluation and flags.model != release.stable:
        _refuse_a_loser(flags.model, release.stable, flags.evaluation)
    if flags.share < 1:
        return release.with_canary(flags.model, flags.share)
    return release.promoted(flags.model)


def _refuse_an_unknown(model: str, workspace: str) -> None:
    from moss.manifest import finished_runs, load_manifest
    from moss.storage import join

    manifests = [load_manifest(join(workspace, name)) for name in finished_runs(workspace)]
    made = sorted({item.model_name for item in manifests if item.model_name})
    if model not in made:
        near = difflib.get_close_matches(model, made, n=1)
        raise ConfigError(
            f"no run of {workspace} made a model {model!r}"
            + (f"; did you mean {near[0]}?" if near else "")
            + f" Made there: {', '.join(made) or 'none'}. If the service serves it from another "
            "workspace, give that: --workspace FOLDER"
        )


def _refuse_a_loser(model: str, stable: str, evaluation: str) -> None:
    from moss import storage
    from moss.evaluation.winrate import count_wins
    from moss.outputs import verify_outputs

    try:
        verify_outputs(evaluation)
    except ManifestError as error:
        raise ConfigError(
            f"nothing says whether {model} is better than {stable}: {error}. Name a finished run "
            "of jobs.evaluate with --evaluation, or give --skip-evaluation"
        ) from error
    rows = [
        row
        for row in storage.read_rows(storage.join(evaluation, "data", "judgments.parquet"))
        if {row["model_a"], row["model_b"]} == {model, stable}
    ]
    if not rows:
        raise ConfigError(
            f"{evaluation} does not compare {model} with {stable}; evaluate both, or give "
            "--skip-evaluation"
        )
    result = count_wins(model, rows)
    if result.decided is not None and result.decided.high < 0.5:
        raise ConfigError(
            f"{model} won {result.num_wins} and lost {result.num_losses} of {result.n} judged "
            f"prompts against {stable}: it is worse. Release another, or give --skip-evaluation"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.promote", description=(__doc__ or "").partition("\n")[0]
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="a model that the service serves")
    which.add_argument(
        "--rollback", action="store_true", help="undo the last step: a canary, else a release"
    )
    parser.add_argument(
        "--share", type=_share, default=1.0, help="of users, above 0; 1 is everybody (default)"
    )
    parser.add_argument("--file", required=True, help="what `release_file` names")
    parser.add_argument(
        "--evaluation", default="runs/tiny/evaluation", metavar="FOLDER",
        help="run of jobs.evaluate (default: runs/tiny/evaluation)",
    )  # fmt: skip
    parser.add_argument(
        "--workspace", metavar="FOLDER",
        help="runs that made the models (default: the folder that holds the evaluation)",
    )  # fmt: skip
    parser.add_argument(
        "--skip-evaluation", action="store_true", help="release whatever the judge says"
    )
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and at most 1")
    return share


if __name__ == "__main__":
    raise SystemExit(main())
