"""How a command fails: in one line, with exit code 2."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn


class UserError(Exception):
    """Bad input from the user: the message says in one line what is wrong and what to do. Commands exit with 2."""


def as_user_error(error: OSError) -> UserError | None:
    """The one line for a full or read-only disk and the like; None for faults that are the program's own."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        return UserError(f"cannot write {error.filename or 'a file'}: {error.strerror}; choose another place")
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
        return None
    return UserError(f"cannot write {error.filename or 'a file'}: {error.strerror}; make room or rights, the same command resumes")


def refuse(error: UserError) -> NoReturn:
    """Print one line and leave with exit code 2."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
