"""Files on disk: atomic writes, arrays without pickles, JSON lines."""

from __future__ import annotations

import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from env.run.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
META = "meta"  # the array that holds a file's JSON description


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write `path` so that at any moment it is either the old or the new file, whole.

    The bytes go to a neighbour file, reach the disk, and only then take the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


CHECK = "crc"  # the key of a checksum


def checksum(data: Any) -> str:
    """Of what can be written as JSON."""
    return f"{zlib.crc32(json.dumps(data).encode()):08x}"


def write_json(path: Path, data: dict[str, Any], seal: bool = False) -> None:
    """Write `data` as indented JSON, atomically; `seal` for a checksum in it, of what others rely on."""
    whole = data | {CHECK: checksum(data)} if seal else data
    write_atomic(path, lambda file: file.write((json.dumps(whole, indent=2) + "\n").encode()))


def read_json(path: Path, sealed: bool = False) -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
        path: the file.
        sealed: whether it must have a checksum.

    Raises:
        UserError: it is missing, damaged, or was changed since it was sealed.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, it is no valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged, it holds no object")
    check = data.pop(CHECK, None)
    if (sealed or check is not None) and check != checksum(data):
        raise UserError(f"{path} is damaged, or was changed by hand (then delete its '{CHECK}')")
    return data


def save_arrays(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any] | None = None, compress: int = 0) -> None:
    """Write an npz that `np.load(allow_pickle=False)` reads.

    Args:
        path: file name, ending in .npz.
        arrays: name -> array of a plain dtype.
        meta: a JSON-able description, kept in the file as text.
        compress: zlib level; 0 stores. numpy's own savez_compressed always takes level 6, five times slower than 1.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    whole = dict(arrays)
    if meta is not None:
        whole[META] = np.array(json.dumps(meta))

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", method, allowZip64=True, compresslevel=compress or None) as archive:
            for name, array in whole.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    write_atomic(path, write)


# What numpy and zipfile raise on files that are cut short, overwritten, or no npz at all.
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def check_members(path: Path, archive: np.lib.npyio.NpzFile) -> None:
    """Raise ValueError when an archive does not list as many members as its end says: a damaged entry may hide those after it."""
    with open(path, "rb") as file:
        file.seek(-22, os.SEEK_END)
        end = file.read()
    if end[:4] != b"PK\x05\x06" or int.from_bytes(end[10:12], "little") not in (len(archive.files), 0xFFFF):
        raise ValueError("its list of arrays is not whole")


def load_arrays(path: Path, what: str = "weights file") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an npz written by `save_arrays` as (arrays, meta). Never unpickles.

    Raises:
        UserError: the file is missing, a pickle, damaged, or not an npz; `what` names its role in the message.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            if head[:1] == b"\x80":
                raise UserError(f"{what} {path} is a pickle, which could run any code: give an .npz")
            if head[:2] != b"PK":
                raise UserError(f"{what} {path} is not an .npz: give one that this program wrote")
        with np.load(path, allow_pickle=False) as archive:
            check_members(path, archive)
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop(META))) if META in arrays else {}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{what} {path} is missing") from None
    except IsADirectoryError:
        raise UserError(f"{what} {path} is a directory: give an .npz file") from None
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise UserError(f"{what} {path} holds pickled objects, which could run any code: give plain arrays") from None
        raise UserError(f"{what} {path} is damaged ({error}): make or fetch it again") from None
    return arrays, meta


TENSORBOARD = "WORLD_MODELS_TENSORBOARD"  # environment variable: write trainings' logs for TensorBoard as well


def log_name(path: Path) -> str:
    """What a log is called in its rows' checksums, such as vae/log: one in the place of another is found."""
    return f"{path.parent.absolute().name}/{path.stem}"


def sealed(row: dict[str, Any], name: str) -> str:
    """A row as a line of JSON that ends with a checksum of all before it and of the log's name, so that a changed digit is found."""
    line = json.dumps(row)
    check = f'"{CHECK}": "{zlib.crc32((name + line).encode()):08x}"'
    return f"{line[:-1]}, {check}}}" if row else f"{{{check}}}"


def unsealed(line: str, name: str) -> dict[str, Any] | None:
    """The row that `sealed` made a line of; None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    row.pop(CHECK, None)
    return row if sealed(row, name) == line else None


class JsonlLog:
    """A log of one JSON object a line, each with a checksum (`sealed`).

    Args:
        path: the file; its folder is made when needed.
        keep: on resuming, rows for which this is false (made after the checkpoint) and half-written ones are dropped.
        steps: of a training's log, the number that rows are counted by; with TENSORBOARD set, their other numbers go to a folder
            `tensorboard` beside the log, too.
        rows: what it begins with, in the place of what the file holds.

    Attributes:
        rows: how many there are.
    """

    def __init__(
        self,
        path: Path,
        keep: Callable[[dict[str, Any]], bool] = lambda row: True,
        steps: str = "",
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        self.path, self._name, self._steps, self._events = path, log_name(path), steps, None
        if steps and os.environ.get(TENSORBOARD):
            import tensorflow as tf

            self._events = tf.summary.create_file_writer(str(path.parent / "tensorboard"), flush_millis=10_000)
        path.parent.mkdir(parents=True, exist_ok=True)
        if rows is None:
            rows = [row for row in read_jsonl(path) if keep(row)] if path.exists() else []
        write_atomic(path, lambda file: file.writelines((sealed(row, self._name) + "\n").encode() for row in rows))
        self.rows = len(rows)

    def append(self, row: dict[str, Any], durable: bool = False) -> None:
        """Add one row; `durable` to return only when it has reached the disk."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(sealed(row, self._name) + "\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())
        self.rows += 1
        if self._events is not None:
            import tensorflow as tf

            kind = tf.compat.v1.SummaryMetadata()  # what tf.summary.scalar writes, too, but that asks for TensorBoard to be installed
            kind.plugin_data.plugin_name = "scalars"
            with self._events.as_default(step=row[self._steps]):
                for key, value in row.items():
                    if key != self._steps and isinstance(value, (int, float)):
                        tf.summary.write(f"{self.path.parent.name}/{key}", tf.constant(value, tf.float32), metadata=kind)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file. A half-written last line (a killed process) is left out; damaged ones are, too, which is said."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    rows, bad, name = [], [], log_name(path)
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        row = unsealed(line, name)
        if row is None:
            bad.append(number)
        else:
            rows.append(row)
    last = unsealed(lines[-1], name) if lines[-1] else None
    if last is not None:
        rows.append(last)
    if bad:
        which = f"line {bad[0]} of {path} is" if len(bad) == 1 else f"{len(bad)} lines of {path}, from line {bad[0]} on, are"
        print(f"warning: {which} damaged and left out", file=sys.stderr, flush=True)
    return rows


def copy_log(source: Path, target: Path) -> None:
    """Copy a log to another place, where its rows get that one's checksums."""
    JsonlLog(target, rows=read_jsonl(source))
