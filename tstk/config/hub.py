"""Runs on the Hugging Face hub, named hf://owner/name, with @REVISION for a branch, a tag or a commit.

huggingface_hub keeps them in its cache (HF_HOME) and knows the token (`hf auth login`). A run is taken from the cache
alone if HF_HUB_OFFLINE or TSTK_OFFLINE is set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tstk.errors import CheckpointError, OptionError

# Path("hf://owner/name") has a single slash
_HUB_RUN = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_hub_run(run: str | Path) -> bool:
    """Return whether a run is named by its place on the hub."""
    return str(run).startswith("hf:/")


def parse_hub_run(run: str | Path) -> tuple[str, str | None]:
    """Return the repository and the revision of hf://owner/name@REVISION; None for the main branch.

    Raises:
        OptionError: it has another form
    """
    match = _HUB_RUN.fullmatch(str(run))
    if match is None:
        raise OptionError(f"{run}: write a run on the hub as hf://owner/name, or hf://owner/name@REVISION")
    return match[1], match[2]


def fetch_hub_run(run: str | Path, files: Sequence[str]) -> Path:
    """Return the folder of a run on the hub, downloaded unless the cache has it; asked for once in a process.

    Args:
        run: hf://owner/name, with or without @REVISION
        files: names of the files that a run may have; no others are downloaded

    Raises:
        OptionError: `run` has another form
        CheckpointError: it is not there, or cannot be reached
    """
    return _fetch(*parse_hub_run(run), tuple(files))


@cache
def _fetch(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"hf://{repo}" + (f"@{revision}" if revision else "")
    is_offline = is_hub_offline()
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files), local_files_only=is_offline))
    except GatedRepoError:
        problem = "access is granted on request; ask for it on the page of the repository, then log in: hf auth login"
    except RepositoryNotFoundError:
        problem = "no such repository, or it is private; check the name, or log in: hf auth login"
    except RevisionNotFoundError:
        problem = f"the repository has no branch, tag or commit {revision!r}"
    except LocalEntryNotFoundError:
        problem = "it is not in the cache, and " + (
            "HF_HUB_OFFLINE or TSTK_OFFLINE forbids requests; unset it" if is_offline else "the hub cannot be reached"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"the hub refused it or cannot be reached ({type(error).__name__})"
    raise CheckpointError(f"{name}: {problem}") from None


def is_hub_offline() -> bool:
    """Return whether requests to the hub are forbidden."""
    return any(
        os.environ.get(name, "0").lower() not in ("", "0", "false") for name in ("HF_HUB_OFFLINE", "TSTK_OFFLINE")
    )
