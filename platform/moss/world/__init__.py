"""The closed domain of the offline teacher: questions, their answers, replies of graded quality.

Open enough that held-out questions are new (numbers, names and phrasings combine), closed enough
that a model of a million parameters can learn it. `data/world/` holds phrases and tables,
`data/facts.jsonl` the facts; the bundled corpus states each fact.
"""

from moss.world.question import KINDS, Kind, Question
from moss.world.recognition import recognize
from moss.world.replies import compose_reply, compose_tool_reply
from moss.world.sampling import question_from, sample_follow_up, sample_question
from moss.world.toolplans import plan_tools

__all__ = [
    "KINDS",
    "Kind",
    "Question",
    "compose_reply",
    "compose_tool_reply",
    "plan_tools",
    "question_from",
    "recognize",
    "sample_follow_up",
    "sample_question",
]
