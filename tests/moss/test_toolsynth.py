import contextlib
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.chat import Command, Conversation, ToolResult, Turn
from moss.config.synthesis import SynthesizeToolConversationsConfig
from moss.errors import TeacherResponseError
from moss.meta_instruction import MetaInstruction
from moss.recipes import Row
from moss.synthesis_inputs import demonstrations_by_language
from moss.tool_recipes import NegativeExample, Planner, ToolConversation
from moss.toolsynth import (
    Plan,
    check_citations,
    check_plan,
    choose_switches,
    parse_plan,
    render_switches,
)
from moss.types import TOOL_NAMES, ToolName
from tests.moss.recipe_runner import run_recipe
from tests.stub_teacher import respond as stub_teacher

CONFIG = SynthesizeToolConversationsConfig.model_validate(
    {"run_id": "t", "conversations": "c", "quotas": {}, "meta_version": "tiny"}
)
PLANNER = Planner("m", CONFIG, demonstrations_by_language())
ROW: Row = {
    "id": "t1",
    "query": "What is 12*7+5?",
    "tool": "calculator",
    "kind": "positive",
    "language": "en",
    "num_turns": 1,
}


class Echo:
    """Tools that answer every command alike."""

    def __init__(self, ok: bool = True) -> None:
        self.ok = ok

    async def run(self, commands: Sequence[Command]) -> tuple[ToolResult, ...]:
        return tuple(ToolResult(command, "'89'", ok=self.ok) for command in commands)


def conversation_of(row: Row) -> Conversation:
    assert row["status"] == "ok", row["reason"]
    return Conversation.from_json(str(row["conversation"]))


@pytest.mark.parametrize(
    "text",
    [
        ' I need it.\nCommands: Calculate("1+1")',
        'Inner thoughts: I need\nit.\nCommands: Calculate("1+1")\nResults: 2',
        '\ninner thought： I need it.\n\ncommands： Calculate("1+1")  ',
    ],
)
def test_plans_are_read_as_planners_write_them(text: str) -> None:
    assert parse_plan(text) == Plan("I need it.", (Command("Calculate", "1+1"),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I need it.",
        "Inner thoughts: x\nCommands: Calculate(1+1)",
        'Inner thoughts: x\nCommands: Calculate("1") and Solve("x")',
        "Inner thoughts: x\nCommands: Non",
        'Inner thoughts: x\nCommands: Calculate("1"<eoc>',
    ],
)
def test_malformed_plans_are_refused(text: str) -> None:
    with pytest.raises(TeacherResponseError):
        parse_plan(text)


@given(st.text())
def test_any_text_is_a_plan_or_refused(text: str) -> None:
    with contextlib.suppress(TeacherResponseError):
        parse_plan(text)


def test_unknown_and_switched_off_tools_are_refused() -> None:
    on: frozenset[ToolName] = frozenset({"calculator"})
    check_plan(Plan(None, (Command("Calculate", "1"),)), on)
    with pytest.raises(TeacherResponseError, match="switched off"):
        check_plan(Plan(None, (Command("Solve", "x=1"),)), on)
    with pytest.raises(TeacherResponseError, match="no tool of ours"):
        check_plan(Plan(None, (Command("Delete", "all"),)), on)


def test_citations_must_name_a_page_among_the_results() -> None:
    results = (ToolResult(Command("Search", "q"), "<|1|>: 'a'\n<|2|>: 'b'"),)
    check_citations("So<sup><|2|></sup>.", results)
    check_citations("No source.", ())
    with pytest.raises(TeacherResponseError, match="cites 3"):
        check_citations("So<sup><|3|></sup>.", results)


@given(
    st.frozensets(st.sampled_from(TOOL_NAMES), max_size=3),
    st.sampled_from(["positive", "disabled", "negative"]),
    st.floats(0, 1),
    st.text(max_size=5),
)
def test_switches_keep_the_promise_of_their_kind(
    needed: frozenset[ToolName], kind: str, probability: float, row_id: str
) -> None:
    assert kind in ("positive", "disabled", "negative")
    on = choose_switches(needed, kind=kind, probability=probability, seed=0, row_id=row_id)  # type: ignore[arg-type]
    assert (needed <= on) if kind == "positive" else not (needed & on)
    if kind == "negative":
        assert on


def test_switch_lines_name_every_api_for_all_combinations() -> None:
    for size in range(5):
        for on in itertools.combinations(TOOL_NAMES, size):
            lines = render_switches(frozenset(on)).splitlines()
            assert len(lines) == 4
            assert sum(line.endswith(": enabled") for line in lines) == size


def test_a_positive_conversation_walks_all_five_sections() -> None:
    row, bodies = run_recipe(ToolConversation(PLANNER, Echo(), "m"), ROW, stub_teacher)
    conversation = conversation_of(row)
    (turn,) = conversation.turns
    assert "calculator" in conversation.meta.tools
    assert conversation.meta.inner_thoughts
    assert turn.commands == (Command("Calculate", "12*7+5"),)
    assert [result.text for result in turn.results] == ["'89'"]
    assert turn.inner_thoughts == "I need a tool."
    reply_prompt = str(bodies[-1]["messages"])
    assert "Calculate(" in reply_prompt
    assert "'89'" in reply_prompt or "\\'89\\'" in reply_prompt


def test_the_planner_sees_demonstrations_and_the_reply_does_not() -> None:
    _, bodies = run_recipe(ToolConversation(PLANNER, Echo(), "m"), ROW, stub_teacher)
    demonstration = demonstrations_by_language()["en"][0]
    assert demonstration.query in str(bodies[0]["messages"])
    assert demonstration.query not in str(bodies[-1]["messages"])


def test_with_its_tool_off_a_conversation_holds_no_call() -> None:
    row, _ = run_recipe(
        ToolConversation(PLANNER, Echo(), "m"), {**ROW, "kind": "disabled"}, stub_teacher
    )
    conversation = conversation_of(row)
    assert "calculator" not in conversation.meta.tools
    assert conversation.turns[0].commands == ()
    assert conversation.turns[0].results == ()


def test_a_follow_up_is_written_from_the_history_alone() -> None:
    row, bodies = run_recipe(
        ToolConversation(PLANNER, Echo(), "m"), {**ROW, "num_turns": 2}, stub_teacher
    )
    assert len(conversation_of(row).turns) == 2
    (follow_up,) = [str(b["messages"]) for b in bodies if "follow-up question" in str(b)]
    assert "What is 12*7+5?" in follow_up
    assert demonstrations_by_language()["en"][0].query not in follow_up


def test_a_bad_plan_is_repaired_once_then_fails_the_row_with_both_answers() -> None:
    row, bodies = run_recipe(
        ToolConversation(PLANNER, Echo(), "m"), ROW, lambda _: "Commands: rm -rf"
    )
    assert row["status"] == "failed"
    assert "do not parse" in str(row["reason"])
    assert str(row["reason"]).count("rm -rf") >= 2
    assert len(bodies) == 2


def test_a_plan_is_told_what_was_wrong_with_it_and_mended() -> None:
    answered: list[str] = []

    def respond(body: dict[str, object]) -> str:
        messages = body["messages"]
        assert isinstance(messages, list)
        answered.append(stub_teacher({**body, "messages": messages[:1]}))
        return "Commands: rm -rf" if len(answered) == 1 else answered[-1]

    row, bodies = run_recipe(ToolConversation(PLANNER, Echo(), "m"), ROW, respond)
    assert row["status"] == "ok"
    assert "could not be read" in str(bodies[1])
    assert "could not be read" not in str(bodies[2])


def test_a_tool_without_a_result_fails_a_positive_row() -> None:
    row, _ = run_recipe(ToolConversation(PLANNER, Echo(ok=False), "m"), ROW, stub_teacher)
    assert row["status"] == "failed"
    assert "no result" in str(row["reason"])


def test_an_easy_query_is_filtered_when_a_difficulty_is_asked_for() -> None:
    config = CONFIG.model_copy(update={"min_difficulty": 3})
    recipe = ToolConversation(Planner("m", config, PLANNER.demonstrations), Echo(), "m")
    row, bodies = run_recipe(recipe, ROW, lambda _: "2")
    assert (row["status"], row["reason"]) == ("filtered", "difficulty 2 is below 3")
    assert len(bodies) == 1


def test_a_negative_example_switches_on_only_tools_its_prompts_do_not_need() -> None:
    conversation = Conversation(
        MetaInstruction("tiny"), (Turn("What is 12*7+5?", "89."), Turn("Thanks a lot.", "Sure."))
    )
    for number in range(8):
        source: Row = {"id": f"n{number}", "language": "en", "conversation": conversation.to_json()}
        row, _ = run_recipe(NegativeExample(PLANNER), source, stub_teacher)
        switched = conversation_of(row)
        assert switched.turns == conversation.turns
        assert switched.meta.tools
        assert "calculator" not in switched.meta.tools
        assert switched.meta.inner_thoughts
