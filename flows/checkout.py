"""Whether this folder is a git checkout, and what DVC is told where it is none: `python -m flows.checkout`.

DVC works without git where `core.no_scm` says so, and `dvc exp` only where it does not. So that is written into
`.dvc/config.local`, which belongs to this folder alone, and taken back once there is git.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

LOCAL = Path(".dvc/config.local")
OURS = Path(".aecore/without_git")
"""Stands beside a `core.no_scm` that was written here, so that a user's own is left alone."""


def settle() -> str:
    """Have DVC work in the current folder, with or without git; returns what was changed, in a sentence, or ""."""
    without, said = not followed(Path.cwd()), _said()
    if without and not said:
        _dvc("core.no_scm", "true")
        OURS.parent.mkdir(exist_ok=True)
        OURS.touch()
        return f"There is no git here: {LOCAL} tells DVC so. `dvc exp` needs git; all else works without."
    if not without and said and OURS.exists():
        _dvc("--unset", "core.no_scm")
        OURS.unlink()
        return f"There is git here now: {LOCAL} no longer tells DVC otherwise."
    return ""


def followed(folder: Path) -> bool:
    """Whether git follows `folder`, in a repository of its own, a worktree, or one above that does not ignore it."""
    top = next((above for above in (folder, *folder.parents) if (above / ".git").exists()), None)
    if top is None or top == folder or shutil.which("git") is None:
        return top is not None
    # Outside of a repository that it may read, git says 128: DVC, which would find this one, decides.
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "dvc.yaml"], cwd=folder, capture_output=True, check=False
    )
    return ignored.returncode != 0


def _said() -> bool:
    """Whether `.dvc/config.local` says that there is no git."""
    text = LOCAL.read_text(encoding="utf-8") if LOCAL.exists() else ""
    return re.search(r"^\s*no_scm\s*=\s*[\"']?(true|yes|on|1)\b", text, re.MULTILINE | re.IGNORECASE) is not None


def _dvc(*arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", "config", "--local", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`dvc config --local {' '.join(arguments)}` failed: {done.stderr.strip()}")


def main() -> int:
    """Settle it; prints what was changed to standard error."""
    if not Path(".dvc").is_dir():
        print("flows.checkout: run this from the project's folder, the one that holds .dvc.", file=sys.stderr)
        return 2
    if told := settle():
        print(told, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
