"""The fixtures of the tests of generation."""

from tests.llm.generation.tiny import model, tokenizer  # noqa: F401
