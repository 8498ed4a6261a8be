"""Runs: files and folders, processes of a launcher, caches, the hub."""

from fdpo.runs.distributed import is_main_process
from fdpo.runs.files import file_name, read_json, replacing, write_json, write_jsonl, write_text
from fdpo.runs.folder import (
    LOG,
    METRICS,
    NONFINITE,
    PACKAGES,
    RECORD,
    changes_metrics,
    checkpoint,
    git_commit,
    last_checkpoint,
    may_change,
    prepare,
    recording_nonfinite,
    require_free,
    run_options,
    versions,
)

__all__ = [
    "NONFINITE",
    "LOG",
    "METRICS",
    "PACKAGES",
    "RECORD",
    "changes_metrics",
    "checkpoint",
    "file_name",
    "git_commit",
    "is_main_process",
    "last_checkpoint",
    "may_change",
    "prepare",
    "read_json",
    "recording_nonfinite",
    "replacing",
    "require_free",
    "run_options",
    "versions",
    "write_json",
    "write_jsonl",
    "write_text",
]
