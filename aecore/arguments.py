"""The command line's parser, and the types of its numbers: what cannot be is refused in a sentence, before any work."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable
from typing import NoReturn

from aecore.config import UserError


class Parser(argparse.ArgumentParser):
    """Raises what is wrong with the arguments as one sentence, which begins with the command."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError, where argparse would print the usage before the fault and exit."""
        command = self.prog.removeprefix("python -m ")
        if number := re.match(r"argument (\S+): (is .+)", message, re.DOTALL):
            raise UserError(f"{command}: {number[1]} {number[2]}")
        if unknown := re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL):
            near = difflib.get_close_matches(unknown[1], re.findall(r"[a-z]+", unknown[2]), n=1)
            message = f"there is no command {unknown[1]!r}{''.join(f' (did you mean {name!r}?)' for name in near)}"
        raise UserError(f"{command}: {message}; `{self.prog} --help` says what there is.")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` to `most`; None: without a largest."""
    expected = f"{least} or more" if most is None else f"{least} to {most}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"is {text!r}; expected a whole number, {expected}.") from error
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"is {number}; expected {expected}.")
        return number

    return convert


def real(holds: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """The type of an argument that is a finite number for which the condition `holds`, which `expected` tells."""

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"is {text!r}; expected a number, {expected}.") from error
        if not (math.isfinite(number) and holds(number)):
            raise argparse.ArgumentTypeError(f"is {number:g}; expected {expected}.")
        return number

    return convert
