"""Measures what `jobs.compare` reports."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass

from actors.session import TeacherSession
from jobs.evaluation_models import EvaluatedModel, Scorer
from jobs.held_out import find_held_out, judge_pairs
from moss import storage
from moss.config.evaluation import CompareConfig
from moss.config.ppo import SamplingParams
from moss.evaluation.methods import Comparisons, Cost, Method, best_of_n_kl_bound
from moss.evaluation.prompts import HeldOut
from moss.evaluation.quality_control import QualityControl, quality_control
from moss.evaluation.report import Report, save_report
from moss.evaluation.report_html import render_html
from moss.evaluation.statistics import Estimate, WinRate, bootstrap_interval
from moss.evaluation.winrate import count_score_wins
from moss.lineage import Run
from moss.manifest import load_manifest
from moss.recipes import Row
from moss.rollouts import Rollout
from moss.types import QUALITY_LEVELS

BEST_QUALITY = max(QUALITY_LEVELS)


@dataclass(frozen=True, slots=True)
class Answers:
    """One method's answers to the held-out prompts."""

    texts: dict[str, str]
    scores: list[float]
    """Preference score of each, in order."""
    lengths: list[float]
    """Tokens of each."""
    seconds: float
    """To make them all, and to score them where the method does that to choose."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Results, and the rows behind them."""

    found: Comparisons
    judgments: list[Row]
    responses: list[Row]


def input_runs(config: CompareConfig) -> dict[str, str]:
    """Run -> folder of everything that is read."""
    data = {config.conversations, *config.training_data}
    models = {config.preference_model, *config.trained}
    return {name: config.run_path(name) for name in sorted(data | models)}


def num_steps(config: CompareConfig) -> int:
    """Most responses and judgments that the live line can count."""
    num_prompts, methods = config.win_rate.num_prompts, len(config.trained)
    extra = config.best_of_n.num_samples if config.best_of_n else 0
    tagged = (len(QUALITY_LEVELS) - 1) * config.quality_control.num_prompts
    pairs = methods + bool(extra)
    kl = (methods - 1) * config.num_kl_prompts
    return (methods + extra + pairs) * num_prompts + tagged + kl


def measure(config: CompareConfig, session: TeacherSession) -> Measured:
    """Every method answers the same prompts; scores, verdicts, distances."""
    held_out, notes, _ = find_held_out(config)
    scorer = Scorer(config.run_path(config.preference_model), config.generation)
    models = {
        name: EvaluatedModel(config.run_path(name), config.generation) for name in config.trained
    }
    answers = {
        name: _answer(config, model, scorer, held_out, session, quality=_tag(config, name))
        for name, model in models.items()
    }
    best_of = ""
    if config.best_of_n is not None:
        best_of = f"best of {config.best_of_n.num_samples}"
        answers[best_of] = _best_of_n(config, models[config.sft], scorer, held_out, session)
    pairs = [(name, config.sft) for name in answers if name != config.sft]
    pairs.append((config.pat, config.ppo))
    texts = {name: own.texts for name, own in answers.items()}
    judgments, judged = judge_pairs(config, session, pairs, texts, held_out)
    methods = [
        Method(
            name=name,
            score=bootstrap_interval(own.scores, seed=config.seed),
            kl_nats=_kl_from_sft(config, models, name, held_out, session)
            if name in models and name != config.sft
            else None,
            kl_bound_nats=best_of_n_kl_bound(config.best_of_n.num_samples)
            if config.best_of_n and name == best_of
            else None,
            length_tokens=bootstrap_interval(own.lengths, seed=config.seed),
            response_s=own.seconds / len(own.texts),
            cost=Cost.of(load_manifest(config.run_path(name))) if name in models else None,
        )
        for name, own in answers.items()
    ]
    found = Comparisons(
        methods=methods,
        judged=judged,
        scored={pair: _score_wins(answers, *pair) for pair in judged},
        quality=_by_tag(config, models[config.pat], scorer, held_out, session, answers),
        judge=session.teacher.model("judge"),
        preference_model=_scored_by(config),
        stand_in=session.endpoint.stand_in,
        notes=(*notes, *_run_notes(config)),
    )
    return Measured(found, judgments, _response_rows(held_out, answers))


def write_files(run: Run, measured: Measured, report: Report) -> tuple[list[str], list[str]]:
    """Write the report and the rows behind it; returns outputs and views, relative to the run."""
    save_report(report, run.path("report.json"))
    storage.write_text(run.path("report.html"), render_html(report))
    files = {
        "data/responses.parquet": measured.responses,
        "data/judgments.parquet": measured.judgments,
    }
    for name, rows in files.items():
        storage.write_rows(run.path(name), rows)
    return ["report.json", *files], ["report.html"]


def _tag(config: CompareConfig, name: str) -> int | None:
    """PAT is always asked for its best; the others know no tags."""
    return BEST_QUALITY if name == config.pat else None


def _answer(
    config: CompareConfig,
    model: EvaluatedModel,
    scorer: Scorer,
    held_out: HeldOut,
    session: TeacherSession,
    *,
    quality: int | None,
    seed: int | None = None,
) -> Answers:
    began = time.monotonic()
    rollouts = model.sample(
        held_out.histories,
        model.sampling,
        quality=quality,
        seed=config.seed if seed is None else seed,
        advance=session.progress.advance,
    )
    seconds = time.monotonic() - began
    texts = {prompt_id: model.text_of(rollout) for prompt_id, rollout in rollouts.items()}
    scores = scorer.score(held_out.histories, texts)
    lengths = [float(len(rollout.response_ids)) for rollout in rollouts.values()]
    return Answers(texts, scores, lengths, seconds)


def _best_of_n(
    config: CompareConfig,
    sft: EvaluatedModel,
    scorer: Scorer,
    held_out: HeldOut,
    session: TeacherSession,
) -> Answers:
    """SFT answers several times, each with seeds of its own; the highest score is taken."""
    assert config.best_of_n is not None, "asked for"
    began = time.monotonic()
    drawn = [
        _answer(config, sft, scorer, held_out, session, quality=None, seed=config.seed + 1 + n)
        for n in range(config.best_of_n.num_samples)
    ]
    seconds = time.monotonic() - began
    texts: dict[str, str] = {}
    chosen = []
    for row, prompt_id in enumerate(held_out.histories):
        best = max(drawn, key=lambda own: own.scores[row])
        chosen.append(best)
        texts[prompt_id] = best.texts[prompt_id]
    return Answers(
        texts,
        [own.scores[row] for row, own in enumerate(chosen)],
        [own.lengths[row] for row, own in enumerate(chosen)],
        seconds,
    )


def _kl_from_sft(
    config: CompareConfig,
    models: Mapping[str, EvaluatedModel],
    name: str,
    held_out: HeldOut,
    session: TeacherSession,
) -> Estimate:
    """Mean of log pi(y|x, its tag) - log pi_SFT(y|x) over responses of the method itself."""
    model, sft = models[name], models[config.sft]
    histories = dict(itertools.islice(held_out.histories.items(), config.num_kl_prompts))
    sampling = SamplingParams(max_new_tokens=config.generation.max_new_tokens)
    sampled = model.sample(
        histories,
        sampling,
        quality=_tag(config, name),
        seed=config.seed,
        advance=session.progress.advance,
    )
    untagged = [
        Rollout(
            prompt_ids=sft.prompt_ids(histories[prompt_id], None),
            response_ids=rollout.response_ids,
            logprobs=rollout.logprobs,
            policy_version=rollout.policy_version,
            finish_reason=rollout.finish_reason,
        )
        for prompt_id, rollout in sampled.items()
    ]
    own, reference = model.logprobs(list(sampled.values())), sft.logprobs(untagged)
    ratios = [mine - theirs for mine, theirs in zip(own, reference, strict=True)]
    return bootstrap_interval(ratios, seed=config.seed)


def _by_tag(
    config: CompareConfig,
    pat: EvaluatedModel,
    scorer: Scorer,
    held_out: HeldOut,
    session: TeacherSession,
    answers: Mapping[str, Answers],
) -> QualityControl:
    count = config.quality_control.num_prompts
    few = dict(itertools.islice(held_out.histories.items(), count))
    scores = {BEST_QUALITY: answers[config.pat].scores[:count]}
    for quality in QUALITY_LEVELS:
        if quality != BEST_QUALITY:
            texts = pat.respond(
                few, quality=quality, seed=config.seed, advance=session.progress.advance
            )
            scores[quality] = scorer.score(few, texts)
    return quality_control(scores, seed=config.seed)


def _score_wins(answers: Mapping[str, Answers], model: str, against: str) -> WinRate:
    return count_score_wins(answers[model].scores, answers[against].scores)


def _scored_by(config: CompareConfig) -> str:
    digest = load_manifest(config.run_path(config.preference_model)).manifest_digest
    return f"{config.preference_model} (version {digest[:12]})"


def _run_notes(config: CompareConfig) -> list[str]:
    """What the runs say of themselves, and methods made with another preference model."""
    digest = load_manifest(config.run_path(config.preference_model)).manifest_digest
    notes = []
    for name in config.trained:
        manifest = load_manifest(config.run_path(name))
        notes += [f"{name}: {note}" for note in manifest.notes if note.startswith("stopped by")]
        made_with = manifest.inputs.get("preference_model")
        if made_with is not None and made_with.digest != digest:
            notes.append(
                f"{name} was made with another version of the preference model "
                f"({made_with.digest[:12]})"
            )
    return notes


def _response_rows(held_out: HeldOut, answers: Mapping[str, Answers]) -> list[Row]:
    return [
        {
            "prompt_id": prompt_id,
            "model": name,
            "prompt": held_out.histories[prompt_id].turns[-1].human,
            "response": own.texts[prompt_id],
            "score": own.scores[row],
            "length_tokens": int(own.lengths[row]),
        }
        for name, own in answers.items()
        for row, prompt_id in enumerate(held_out.histories)
    ]
