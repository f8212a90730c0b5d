"""The file of a study: Optuna's journal, written so that a killed process leaves nothing that others wait for.

Optuna's own backend locks with a file that a killed process leaves behind; the lock here is released by the system.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from tstk.errors import CheckpointError
from tstk.files import append_line, truncate_file
from tstk.files.lock import file_lock


class StudyFile(BaseJournalBackend):
    """A journal of one JSON object per line, in the format of Optuna's `JournalFileBackend`.

    Args:
        path: of the file, which need not exist
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset, self.count = 0, 0  # of the last call of `read_logs`: bytes and lines before its end

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the objects from a line on; a line that a killed process has not finished is left out.

        Raises:
            CheckpointError: a line is not JSON
        """
        if not self.path.exists():
            return []
        if log_number_from < self.count:
            self.offset, self.count = 0, 0
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        first, start = self.count, log_number_from - self.count
        self.offset, self.count = self.offset + sum(map(len, lines)), first + len(lines)
        try:
            return [json.loads(line) for line in lines[start:]]
        except ValueError as e:
            raise CheckpointError(
                f"{self.path} is damaged behind line {log_number_from} ({e}); restore it, or choose another --out"
            ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append objects, behind the last line that is complete.

        Raises:
            FileError: the file cannot be written, and is unchanged
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with file_lock(self.path.with_name(f"{self.path.name}.lock")):
            self._cut_unfinished_line()
            append_line(self.path, text)

    def _cut_unfinished_line(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            truncate_file(self.path, content.rfind(b"\n") + 1)
