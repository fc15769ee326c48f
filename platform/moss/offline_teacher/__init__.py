"""The offline teacher: a deterministic stand-in for an LLM endpoint, without Ray and without HTTP.

It reads each prompt as a model would, from its text alone, and answers inside the closed domain of
`moss.world`. Its model names stand for graded quality. It is a stand-in and every report made
with it says so.
"""

from moss.offline_teacher.brain import Answer, answer_chat, answer_completion
from moss.offline_teacher.grades import MODELS

__all__ = ["MODELS", "Answer", "answer_chat", "answer_completion"]
