"""What every `python -m jobs.<name>` does before its own work: flags, config, errors, exit codes.

    python -m jobs.train_sft --config tiny --set training.num_epochs=2 --run-id MOSS-SFT

Light on purpose: parsing flags and `--help` import neither Ray nor torch.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import yaml

from actors.layout import check_layout
from moss.config import Config, StageConfig, load_config
from moss.config.describe import describe_keys
from moss.errors import BudgetError, ConfigError, ManifestError, MossError

C = TypeVar("C", bound=Config)
StageC = TypeVar("StageC", bound=StageConfig)

CONFIGS = Path(__file__).resolve().parent / "configs"

RAY_WORKING_DIRS = "working_dir_files"
"""Folder in which Ray unpacks what `ray job submit --working-dir` uploaded."""

EXIT_CONFIG = 2
"""The user's config or flags are wrong; nothing was started."""
EXIT_FAILED = 3
"""The stage stopped with an error of `moss.errors`; its message was printed."""
EXIT_BUDGET = 4
"""The run's own budget is used up; raise `teacher.budget_tokens` or `budget_usd`, run again."""
EXIT_INTERRUPTED = 130


def run_job(
    job: str,
    config_class: type[StageC],
    body: Callable[[StageC], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse flags, load the stage's config, run `body` with it; returns the exit code.

    Args:
        job: name of the module in `jobs/`, which is also its folder in `jobs/configs/`.
        config_class: the stage's config; its docstring is the text of `--help`.
        body: the stage's work; imports heavy libraries itself.
        argv: flags; those of the process when None.
    """
    parser = build_parser(job, config_class)
    flags = parser.parse_args(argv)

    def work() -> None:
        config = resolve_config(job, config_class, flags)
        refuse_lost_workspace(config)
        if flags.restart:
            _discard(config)
        body(config)
        _say_finished(job, config)

    return guarded(job, work, size=flags.config, workspace=flags.workspace)


def guarded(
    job: str, work: Callable[[], None], *, size: str = "tiny", workspace: str | None = None
) -> int:
    """Run `work`; errors of `moss.errors` become one message on stderr and an exit code.

    Args:
        size: the config in use; hints at other jobs name theirs of the same size.
        workspace: the one that the user named; such hints name it too.
    """
    try:
        check_layout()
        work()
    except ConfigError as error:
        return _report(job, error, EXIT_CONFIG)
    except BudgetError as error:
        return _report(job, error, EXIT_BUDGET)
    except ManifestError as error:
        hint = _maker_hint(str(error), size, workspace)
        return _report(job, ManifestError(f"{error}{hint}"), EXIT_FAILED)
    except MossError as error:
        return _report(job, error, EXIT_FAILED)
    except KeyboardInterrupt:
        print(f"{job}: interrupted; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def build_parser(
    job: str, config_class: type[Config], *, owns_run: bool = True, configs: str | None = None
) -> argparse.ArgumentParser:
    """The flags that all jobs share; a job with flags of its own adds them to this parser.

    Args:
        owns_run: False for a job that leaves no run behind, and so has none to name or restart.
        configs: folder in `jobs/configs/` that `--config` takes sizes from; the job's own if None.
    """
    description = (config_class.__doc__ or "").strip().partition("\n")[0]
    parser = _Parser(
        prog=f"python -m jobs.{job}",
        description=description,
        epilog=f"config keys, for the YAML file and --set:\n{describe_keys(config_class)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder = configs or job
    sizes = ", ".join(shipped_sizes(folder)) or "none yet"
    parser.add_argument(
        "--config",
        default="tiny",
        metavar="NAME|PATH",
        help=f"a size shipped in jobs/configs/{folder} ({sizes}) or a YAML file (default: tiny)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value, dotted key; may be given many times",
    )
    parser.add_argument("--workspace", help="folder or URL that holds the runs")
    if owns_run:
        parser.add_argument("--run-id", help="name of this run's folder in the workspace")
        parser.add_argument(
            "--restart", action="store_true", help="delete what this run has so far and start over"
        )
    return parser


def resolve_config(job: str, config_class: type[C], flags: argparse.Namespace) -> C:
    """The config that the flags name, overrides applied.

    Raises:
        ConfigError: no such file, unknown key, bad value.
    """
    overrides = list(flags.overrides)
    for key in ("run_id", "workspace"):
        value = getattr(flags, key, None)
        if value is not None:
            overrides.append(f"{key}={json.dumps(value)}")
    return load_config(config_class, config_path(job, flags.config), overrides)


def config_path(job: str, name: str) -> Path:
    """The YAML file that `--config NAME|PATH` means.

    Raises:
        ConfigError: neither a shipped size nor a file.
    """
    shipped = CONFIGS / job / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_file():
        return path
    sizes = ", ".join(shipped_sizes(job)) or "none"
    raise ConfigError(
        f"--config {name!r} is neither a file nor a size of {job}; sizes shipped: {sizes}"
    )


def shipped_sizes(job: str) -> list[str]:
    """Names of the configs in `jobs/configs/<job>`, sorted."""
    return sorted(path.stem for path in (CONFIGS / job).glob("*.yaml"))


class _Parser(argparse.ArgumentParser):
    """Names the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown.partition("=")[0], flags, n=1)
        super().error(f"{message}; did you mean {near[0]}?" if near else message)


def refuse_lost_workspace(config: StageConfig) -> None:
    """A workspace must outlive the process, and hold what the stage makes.

    A relative one in a submitted job would lie in Ray's copy of the tree, soon deleted.

    Raises:
        ConfigError: says which folder or URL to give instead.
    """
    from moss.lineage import shared_folder

    if config.workspace.startswith("memory://"):
        raise ConfigError(
            f"workspace={config.workspace!r} ends with the process; give a folder or a URL"
        )
    if not config.reads_any_storage:
        shared_folder(config.workspace)
    relative = "://" not in config.workspace and not Path(config.workspace).is_absolute()
    if relative and RAY_WORKING_DIRS in Path.cwd().parts:
        raise ConfigError(
            f"workspace={config.workspace!r} is relative, but this job runs in Ray's temporary "
            "copy of the working directory; give an absolute path or URL that every node "
            "reaches, for example --workspace /shared/runs"
        )


def _discard(config: StageConfig) -> None:
    from moss.lineage import discard_run  # pyarrow is slow to import, and --help must not be

    discard_run(config.run_path(config.run_id))


def _say_finished(job: str, config: StageConfig) -> None:
    from moss.lineage import is_finished, load_manifest, run_folder

    folder = run_folder(config)
    if not is_finished(folder):
        return
    manifest = load_manifest(folder)
    pages = [view.path for view in manifest.views if view.path.endswith(".html")]
    print(f"{job}: finished, {folder}" + (f" (open {', '.join(pages)})" if pages else ""))
    for note in manifest.notes:
        print(f"  note: {note}")


def _maker_hint(message: str, size: str, workspace: str | None) -> str:
    """The command that makes the run a message names, if a shipped config does."""
    files = CONFIGS.glob("*/*.yaml")
    for file in sorted(files, key=lambda file: (not file.stem.startswith(size), str(file))):
        run_id = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("run_id")
        run_id = run_id or _default_run_id(file.parent.name)
        if run_id and f"/{run_id} has no manifest" in message:
            place = f" --workspace {shlex.quote(workspace)}" if workspace else ""
            return f"; python -m jobs.{file.parent.name} --config {file.stem}{place} makes it"
    return ""


def _default_run_id(job: str) -> str:
    """Of the job's config class; empty if it has none."""
    if importlib.util.find_spec(f"jobs.{job}") is None:
        return ""
    field = importlib.import_module(f"jobs.{job}").CONFIG_CLASS.model_fields["run_id"]
    return "" if field.is_required() else str(field.default)


def _report(job: str, error: MossError, code: int) -> int:
    print(f"{job}: {type(error).__name__}: {error}", file=sys.stderr)
    return code
