"""The life of a run: its folder, its checkpoint, the start, an interruption, the metrics.

Every training program follows it with one context manager:

.. code-block:: python

    with Run("train.py", args.output_dir, options, resume=...) as run:
        model = load(...)               # set-up: a mistake of the user is one line, status 2
        run.start()                     # from here on errors keep their traceback
        trainer.train(run.checkpoint)
        run.exit_if(trainer.interrupted, trainer.step)
        save(model)                     # before the report, which may fail
        with run.reporting("comparison"):
            metrics |= compare(model)   # an error is one line, and the run continues
        run.finish(metrics)             # metrics.json: the run is finished
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Self

from fdpo.cli.mistakes import MISTAKES, fail, lacks_package, usage_errors
from fdpo.cli.terminal import INTERRUPTED
from fdpo.runs.checkpoints import CheckpointError, checkpoints, obstacle, remove_unfinished
from fdpo.runs.distributed import is_main_process, num_processes, partial_state
from fdpo.runs.files import is_leftover, remove_leftovers, write_json, write_text
from fdpo.runs.folder import (
    METRICS,
    NONFINITE,
    RECORD,
    REPORT_ERRORS,
    prepare,
    require_free,
)
from fdpo.runs.locks import at_work_in
from fdpo.runs.resume import checkpoint


@dataclass
class Run:
    """A run of a program in its folder: a context manager that ends the program as users expect.

    Before :meth:`start` a ``ValueError`` or ``OSError`` is a mistake of the user: one line, status
    2; at any time a package that is not installed is. After it a ``FloatingPointError`` is also
    written to ``diverged.txt``. A checkpoint that cannot be written or read is one line, status 1,
    and Ctrl-C exits with status 130.

    Arguments:
        program: The name that errors begin with.
        output_dir: The folder.
        options: Every option by name, which ``run.json`` records.
        resume: The value of ``--resume_from_checkpoint``.
        overwrite: Whether to replace a run in the folder.
        repeatable: Whether the same command resumes the run in the folder, without
            ``--resume_from_checkpoint``; a folder that holds anything else is refused.
        aliases: Other names of options, which the record of an older run may hold.

    Attributes:
        checkpoint: The checkpoint to resume from, ``None`` for the start.
        started: Whether the set-up is done and ``run.json`` is written.
        missing: The error of each part of the report that failed, by the name of the part.
        new_folders: The folder and its parents, as far as they were not there before the run.
        lock: Keeps other programs out of the folder from the start to the end.
    """

    program: str
    output_dir: str | Path
    options: Mapping[str, Any]
    _: KW_ONLY
    resume: str | None = None
    overwrite: bool = False
    repeatable: bool = False
    aliases: Mapping[str, str] | None = None
    checkpoint: str | None = field(default=None, init=False)
    started: bool = field(default=False, init=False)
    missing: dict[str, str] = field(default_factory=dict, init=False)
    new_folders: list[Path] = field(default_factory=list, init=False)
    lock: ExitStack = field(default_factory=ExitStack, init=False)

    @property
    def folder(self) -> Path:
        """The folder."""
        return Path(self.output_dir)

    def __enter__(self) -> Self:
        """Exits with status 2 if the folder is in use or there is no such checkpoint."""
        folders = (self.folder, *self.folder.parents)
        self.new_folders = [folder for folder in folders if not folder.exists()]
        with usage_errors(self.program):
            if self.folder.is_dir() and is_main_process():
                with at_work_in(self.folder):
                    pass  # a free folder is locked at the start
            self.checkpoint = checkpoint(self.folder, self.resume)
            if self.repeatable and is_main_process():
                self.resume = self._resumable_run()
            # Where the same command resumes, the first process may have started already.
            if not self.overwrite and (is_main_process() or not self.repeatable):
                require_free(self.folder, self.options, self.resume, self.aliases)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self.lock.close()
        if isinstance(error, KeyboardInterrupt):
            self._remove_new_folders()
            again = "the same command resumes"
            state = again if self.repeatable else f"{self.folder} keeps its checkpoints"
            print(f"\ninterrupted; {state}" if self.started else "\ninterrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if isinstance(error, CheckpointError):
            print(f"{self.program}: error: {error}{self._way_on()}", file=sys.stderr)
            sys.exit(1)
        if isinstance(error, FloatingPointError) and self.started:
            write_text(self.folder / NONFINITE, f"{error}\n")
        mistake = isinstance(error, MISTAKES) and not self.started
        if mistake or lacks_package(error):
            self._remove_new_folders()
            fail(self.program, error)

    def _remove_new_folders(self) -> None:
        """Removes the new folders that are empty: a trainer may have made them."""
        for folder in self.new_folders:
            with suppress(OSError):
                folder.rmdir()

    def _way_on(self) -> str:
        """Returns how to continue after a checkpoint that cannot be written or read."""
        found = [path for path in checkpoints(self.folder) if str(path) != self.checkpoint]
        if whole := [path for path in found if not obstacle(path)]:
            return f"; --resume_from_checkpoint {whole[-1].name} resumes the run"
        return f"; rm -r {self.folder} and the same command start it again"

    def _resumable_run(self) -> str | None:
        """Returns the folder if it holds a run; raises `ValueError` if it holds anything else."""
        if (self.folder / RECORD).exists():
            return str(self.folder)
        if self.folder.is_dir() and not all(map(is_leftover, self.folder.iterdir())):
            raise ValueError(f"--output_dir {self.folder} holds something else: choose another")
        return None

    def start(self) -> None:
        """Locks the folder, removes leftovers of a kill, writes ``run.json``: set-up is done."""
        if is_main_process():
            self.lock.enter_context(at_work_in(self.folder))
            for level in (".*", "*/.*", "*/*/.*"):
                remove_leftovers(self.folder.glob(level))
            remove_unfinished(self.folder)
        prepare(
            self.folder,
            self.options,
            resume=self.resume,
            overwrite=self.overwrite,
            aliases=self.aliases,
        )
        if num_processes() > 1:
            partial_state().wait_for_everyone()  # whose files are no leftovers
        self.started = True

    def exit_if(self, interrupted: bool, step: int) -> None:
        """Exits with status 130, saying how to resume, if the training was interrupted."""
        if interrupted:
            if is_main_process():
                print(f"stopped at step {step}; --resume_from_checkpoint last resumes")
            sys.exit(INTERRUPTED)

    @contextmanager
    def reporting(self, part: str) -> Iterator[None]:
        """Keeps an error of a part of the report from ending a run whose model is trained.

        The error is one line, its traceback is added to ``report_errors.txt``, and
        ``metrics.json`` lists the part as ``missing``. Save the model before.

        Arguments:
            part: The name of the part, as in ``"comparison of samples"``.
        """
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.missing[part] = reason
            print(
                f"{self.program}: warning: the run continues without its {part} ({reason}); "
                f"{self.folder / REPORT_ERRORS} has the traceback",
                file=sys.stderr,
            )
            with suppress(OSError), (self.folder / REPORT_ERRORS).open("a", encoding="utf-8") as f:
                f.write(f"{part}\n{traceback.format_exc()}\n")

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Writes ``metrics.json``, the last file of a run, and prints the folder.

        With several processes the first one does.
        """
        if not is_main_process():
            return
        missing = {"missing": self.missing} if self.missing else {}
        write_json(self.folder / METRICS, {**metrics, **missing})
        print(f"run folder: {self.folder}")
