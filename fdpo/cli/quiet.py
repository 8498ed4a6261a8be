"""Quiet, lasting terminals: no warnings that a user cannot act on, no bars that only flash."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from functools import cache, partialmethod
from io import TextIOWrapper

from tqdm import tqdm

from fdpo.cli.terminal import exit_on_interrupt, outlast_terminal
from fdpo.runs.notes import printable

BAR_DELAY = 2.0
"""Seconds that a step takes before its progress bar appears."""

SHORTENED_PROMPT = "The tokenized prompt is not a prefix of the tokenized prompt+completion"
"""TRL's warning of a prompt whose last tokens merge with the completion's; programs count them."""

LOGGED = {
    "trl.trainer.dpo_trainer": (SHORTENED_PROMPT,),
    "transformers.trainer_utils": (
        "The tokenizer has new PAD/BOS/EOS tokens",
        "mtime may not be reliable",  # it orders checkpoints by their numbers instead
    ),
    "transformers.modeling_utils": ("`loss_type=None` was set in the config",),
    "transformers.modeling_layers": ("Caching is incompatible with gradient checkpointing",),
    "transformers.tokenization_utils_base": ("Token indices sequence length is longer than",),
}
"""Texts by which loggers drop messages."""

WARNED = (
    (".*gradient_checkpointing", FutureWarning),  # TRL sets it under its former name
    (".*fan_in_fan_out is set to", UserWarning),  # PEFT corrects it itself
    (".*are left out: their prompts fill", UserWarning),  # programs count them themselves
    ("Image size .* exceeds limit of", Warning),  # decode_image has a limit of its own
    (".*keep_end.* truncation mode", FutureWarning),  # our own collator has it
)
"""Warnings that are ignored: a regular expression and the category."""


class DropMessages(logging.Filter):
    """A filter that drops every message with one of some texts in it."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__()
        self.texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(text in message for text in self.texts)


def one_line(message: Warning | str, *_: object, **__: object) -> str:
    """Formats a warning as its text in one line, without its place in the code."""
    return printable(message) + "\n"


def use_utf8() -> None:
    """Starts the program again in Python's UTF-8 mode if the locale cannot read its arguments.

    Python itself reads any path, but libraries below it (tokenizers) take text of UTF-8 alone.
    """
    if any("\udc80" <= character <= "\udcff" for character in "".join(sys.argv)):
        if not sys.flags.utf8_mode:
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


@cache
def quiet_libraries() -> None:
    """Drops known messages of libraries, prints warnings as lines and bars of long steps only.

    The program outlasts its terminal, which shows what its encoding lacks as escapes, and an
    interrupt ends it in one line. Programs call it first, because options warn too; the library
    itself never does.
    """
    use_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    outlast_terminal()
    exit_on_interrupt()
    for name, texts in LOGGED.items():
        logging.getLogger(name).addFilter(DropMessages(texts))
    for message, category in WARNED:
        warnings.filterwarnings("ignore", message, category)
    warnings.formatwarning = one_line
    tqdm.__init__ = partialmethod(tqdm.__init__, delay=BAR_DELAY)  # also in its subclasses
