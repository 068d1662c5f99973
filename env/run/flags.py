"""From a dataclass to the command line: how a setting is declared, checked, and turned into a flag.

A setting is declared once, as a dataclass field made by `setting(default, "what it means")`. From the field come the
command-line flag, its type, its help text and its bounds. Nothing here imports TensorFlow, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable
from typing import Any, NoReturn

from env.run.errors import UserError


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    resumable: bool = False,
    absent: Any = None,
) -> Any:
    """Declare one setting of a settings dataclass.

    Args:
        default: the value at scale `paper`.
        help: what it means, with its unit; becomes the flag's help.
        low, high: inclusive bounds for numbers.
        choices: the values that are allowed.
        resumable: True where a finished stage can go on from its checkpoint with a larger value.
        absent: of a setting that came later than others: what runs did before there was one. Their files do not have it.
    """
    meta = {"help": help, "low": low, "high": high, "choices": choices, "resumable": resumable, "absent": absent}
    return dataclasses.field(default=default, metadata=meta)


def flag_name(field_name: str) -> str:
    """'learning_rate' -> '--learning-rate'."""
    return "--" + field_name.replace("_", "-")


def check(section: Any, name: str) -> None:
    """Raise UserError when a value of the dataclass `section` has another type than its field, or is out of its bounds.

    `name` prefixes the field's name in the message.
    """
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value, meta = getattr(section, field.name), field.metadata
        label, kind = f"{name}.{field.name}", hints[field.name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{label} is {value!r}: it must be of type {kind.__name__}")
        if meta.get("choices") and value not in meta["choices"]:
            raise UserError(f"{label} is {value!r}: choose one of {', '.join(map(str, meta['choices']))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{label} is {value}: it must be a finite number")
        if meta.get("low") is not None and value < meta["low"]:
            raise UserError(f"{label} is {value}: it must be at least {meta['low']}")
        if meta.get("high") is not None and value > meta["high"]:
            raise UserError(f"{label} is {value}: it must be at most {meta['high']}")


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser that refuses in one line, names the nearest valid flag, and takes no abbreviations."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(self._unknown(unknown[0]))
        return parsed

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument '{word}' (see --help)"
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(word.split("=")[0], known, n=1)
        return f"unknown flag '{word}'" + (f": did you mean '{near[0]}'?" if near else " (see --help)")


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type,
    prefix: str = "",
    *,
    group: str,
    only: list[str] | None = None,
    papers: Callable[[str], str] | None = None,
) -> None:
    """Add a flag for each field of the dataclass `cls`, or for those in `only`.

    The flags' default None means "as the scale or the run says". `papers` tells the paper's value of a field for the help.
    """
    hints = typing.get_type_hints(cls)
    target = parser.add_argument_group(group)
    for field in dataclasses.fields(cls):
        if only is not None and field.name not in only:
            continue
        kind = hints[field.name]
        meta = field.metadata
        target.add_argument(
            flag_name(prefix + field.name),
            dest=prefix + field.name,
            type=_boolean if kind is bool else kind,
            default=None,
            metavar="|".join(map(str, meta["choices"])) if meta["choices"] else kind.__name__,
            help=f"{meta['help']} (paper: {papers(field.name) if papers else field.default})".replace("%", "%%"),
        )


def _boolean(word: str) -> bool:
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"'{word}' is not true or false")


def given(parsed: argparse.Namespace, cls: type, prefix: str = "") -> dict[str, Any]:
    """The fields of `cls` that the command line named, as {field: value}."""
    values = {f.name: getattr(parsed, prefix + f.name, None) for f in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if value is not None}
