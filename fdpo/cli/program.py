"""The life of a run: its folder, its checkpoint, the start, an interruption, the metrics.

Every training program follows it with one context manager:

.. code-block:: python

    with training_run("train.py", args.output_dir, options, resume=...) as run:
        model = load(...)               # set-up: a mistake of the user is one line, status 2
        run.start()                     # from here on errors keep their traceback
        trainer.train(run.checkpoint)
        run.exit_if(trainer.interrupted, trainer.step)
        run.finish(metrics)             # metrics.json: the run is finished
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fdpo.cli.arguments import fail, usage_errors
from fdpo.runs.distributed import is_main_process
from fdpo.runs.files import write_json, write_text
from fdpo.runs.folder import METRICS, NONFINITE, RECORD, checkpoint, prepare, require_free

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C or SIGTERM ended."""


class Run:
    """A run of a program in its folder.

    Arguments:
        output_dir: The folder.
        options: Every option by name, which ``run.json`` records.
        resume: The value of ``--resume_from_checkpoint``.
        overwrite: Whether to replace a run in the folder.
        repeatable: Whether the same command resumes the run in the folder, without
            ``--resume_from_checkpoint``; a folder that holds anything else is refused.
        aliases: Other names of options, which the record of an older run may hold.

    Attributes:
        folder: The folder.
        checkpoint: The checkpoint to resume from, ``None`` for the start.
        started: Whether the set-up is done and ``run.json`` is written.

    Raises:
        ValueError: If the folder holds another run, or there is no such checkpoint.
    """

    def __init__(
        self,
        output_dir: str | Path,
        options: Mapping[str, Any],
        *,
        resume: str | None = None,
        overwrite: bool = False,
        repeatable: bool = False,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.options, self.resume = Path(output_dir), options, resume
        self.overwrite, self.aliases, self.started = overwrite, aliases, False
        self.checkpoint = checkpoint(output_dir, resume)
        if repeatable:
            if not is_main_process():
                return  # the first process may have started already
            self.resume = self._resumable_run()
        if not overwrite:
            require_free(output_dir, options, self.resume, aliases)

    def _resumable_run(self) -> str | None:
        """Returns the folder if it holds a run; raises `ValueError` if it holds anything else."""
        if (self.folder / RECORD).exists():
            return str(self.folder)
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"--output_dir {self.folder} holds something else: choose another")
        return None

    def start(self) -> None:
        """Writes ``run.json``: the set-up is done."""
        prepare(
            self.folder,
            self.options,
            resume=self.resume,
            overwrite=self.overwrite,
            aliases=self.aliases,
        )
        self.started = True

    def exit_if(self, interrupted: bool, step: int) -> None:
        """Exits with status 130, saying how to resume, if the training was interrupted."""
        if interrupted:
            if is_main_process():
                print(f"stopped at step {step}; --resume_from_checkpoint last resumes")
            sys.exit(INTERRUPTED)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Writes ``metrics.json``, the last file of a run, and prints the folder.

        With several processes the first one does.
        """
        if not is_main_process():
            return
        write_json(self.folder / METRICS, metrics)
        print(f"run folder: {self.folder}")


@contextmanager
def training_run(
    program: str,
    output_dir: str | Path,
    options: Mapping[str, Any],
    *,
    resume: str | None = None,
    overwrite: bool = False,
    repeatable: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Yields a :class:`Run` and ends the program as its user expects.

    Before :meth:`Run.start` a ``ValueError`` or ``OSError`` is a mistake of the user: one line,
    status 2. After it a ``FloatingPointError`` is also written to ``diverged.txt``, and Ctrl-C
    exits with status 130.

    Arguments:
        program: The name that errors begin with.
        output_dir, options, resume, overwrite, repeatable, aliases: Those of :class:`Run`.
    """
    with usage_errors(program):
        run = Run(
            output_dir,
            options,
            resume=resume,
            overwrite=overwrite,
            repeatable=repeatable,
            aliases=aliases,
        )
    try:
        yield run
    except FloatingPointError as error:
        if run.started:
            write_text(run.folder / NONFINITE, f"{error}\n")
        raise
    except (ValueError, OSError) as error:
        if run.started:
            raise
        fail(program, error)
    except KeyboardInterrupt:
        state = "the same command resumes" if repeatable else f"{run.folder} keeps its checkpoints"
        print(f"\ninterrupted; {state}", file=sys.stderr)
        sys.exit(INTERRUPTED)
