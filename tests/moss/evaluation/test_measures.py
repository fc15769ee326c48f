"""Win rates, preference accuracy, quality control and tool turns on planted outcomes."""

import random

import pytest

from moss.chat import Command, Conversation, ToolResult, Turn
from moss.config.evaluation import ToolEvaluationConfig
from moss.errors import DataError
from moss.evaluation.preference import pair_accuracy
from moss.evaluation.prompts import fresh_tool_queries
from moss.evaluation.quality_control import quality_control
from moss.evaluation.tool_turns import ARMS, ToolTurn, tool_benefit, tool_control
from moss.evaluation.winrate import comparison_rows, count_score_wins, count_wins
from moss.meta_instruction import MetaInstruction
from moss.preference_accuracy import JudgedPrompt


def test_wins_are_counted_for_the_model_whatever_its_seat() -> None:
    histories = {
        f"p{number}": Conversation(MetaInstruction("tiny"), (Turn(human="Hi.", moss=""),))
        for number in range(60)
    }
    responses = {name: dict.fromkeys(histories, f"I am {name}.") for name in ("new", "old")}
    languages = dict.fromkeys(histories, "en")
    rows = comparison_rows("new", "old", responses, histories, languages=languages)
    seats = [row["model_a"] for row in rows]
    assert 15 < seats.count("new") < 45
    for number, row in enumerate(rows):
        assert row["response_a"] == f"I am {row['model_a']}."
        new_seat = "a" if row["model_a"] == "new" else "b"
        old_seat = "b" if new_seat == "a" else "a"
        row["label"] = [new_seat, new_seat, old_seat, "tie", "invalid", ""][number % 6]
    result = count_wins("new", rows)
    assert (result.num_wins, result.num_ties, result.num_losses, result.num_invalid) == (
        20, 10, 10, 20,
    )  # fmt: skip
    mirrored = count_wins("old", rows)
    assert (mirrored.num_wins, mirrored.num_losses) == (10, 20)


def test_equal_scores_tie() -> None:
    result = count_score_wins([1.0, 2.0, 3.0], [1.0, 1.0, 5.0])
    assert (result.num_wins, result.num_ties, result.num_losses) == (1, 1, 1)


def test_accuracy_by_pair_of_models_sums_to_the_whole() -> None:
    rng = random.Random(0)
    prompts, scores = [], []
    for number in range(40):
        prompts.append(
            JudgedPrompt(f"p{number}", ["x", "y", "z"], [[1]] * 3, [(0, 1), (2, 0), (1, 2)])
        )
        scores.append([rng.random() for _ in range(3)])
    found = pair_accuracy(prompts, scores, num_undecided=5, seed=0)
    rights = [own[w] > own[loser] for own in scores for w, loser in [(0, 1), (2, 0), (1, 2)]]
    assert found.overall.value == pytest.approx(sum(rights) / 120)
    assert found.overall.n == 120
    assert set(found.by_model_pair) == {"x / y", "x / z", "y / z"}
    assert all(estimate.n == 40 for estimate in found.by_model_pair.values())
    assert found.overall.low < found.overall.value < found.overall.high


def test_no_decided_pair_is_an_error() -> None:
    with pytest.raises(DataError, match="label more"):
        pair_accuracy([JudgedPrompt("p", ["x"], [[1]], [])], [[0.0]], num_undecided=0, seed=0)


def test_scores_that_rise_with_the_tag_correlate_perfectly() -> None:
    rng = random.Random(1)
    rising = {
        level: [level / 20 + rng.gauss(0, 1) for _ in range(200)] for level in range(0, 101, 20)
    }
    found = quality_control(rising, seed=0)
    assert found.spearman_of_means == pytest.approx(1.0)
    assert 0.5 < found.spearman_of_responses < 1.0
    falling = {100 - level: scores for level, scores in rising.items()}
    assert quality_control(falling, seed=0).spearman_of_means == pytest.approx(-1.0)


def planted_turns() -> tuple[list[ToolTurn], dict[str, tuple[Command, ...]]]:
    """Ten calculator queries: 9 called when on, 1 false call, none ran; right only when called."""
    config = ToolEvaluationConfig(tools=("calculator",), num_queries=10)
    queries = fresh_tool_queries(config, set(), seed=0)
    turns = []
    plans: dict[str, tuple[Command, ...]] = {}
    for number, query in enumerate(queries):
        call = Command("Calculate", query.question.payload["expression"])
        plans[query.id] = (call,)
        for arm in ARMS:
            called = number > 0 if arm == "on" else arm == "off_unenforced" and number == 5
            ran = (ToolResult(call, f"'{query.question.answer}'", ok=True),) if arm == "on" else ()
            wanted = (call,) if called else ()
            reply = f"= {query.question.answer}." if called and arm == "on" else "I do not know."
            turns.append(ToolTurn(query, arm, wanted, ran if called else (), reply))
    return turns, plans


def test_tool_control_and_benefit_of_planted_turns() -> None:
    turns, plans = planted_turns()
    random.Random(0).shuffle(turns)
    control = tool_control(turns, "calculator")
    assert control.recall.value == 0.9
    assert control.false_calls.value == 0.1
    assert control.false_calls_enforced.value == 0.0
    benefit = tool_benefit(turns, "calculator", plans)
    assert (benefit.with_tool.value, benefit.without_tool.value) == (0.9, 0.0)
    assert (benefit.num_only_with, benefit.num_only_without) == (9, 0)
    assert benefit.p_value == pytest.approx(2 / 2**9)
    assert benefit.errors["not invoked"] == 1
    assert sum(benefit.errors.values()) == 1
