"""The numbers of the command line: what cannot be is one sentence and status 2, before anything is opened."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from aecore import cli

WRONG = [
    (["query", "a.png", "-k", "0"], "aecore query: -k is 0; expected 1 or more."),
    (["query", "a.png", "-k", "-1"], "aecore query: -k is -1; expected 1 or more."),
    (["query", "a.png", "-k", "1.5"], "aecore query: -k is '1.5'; expected a whole number, 1 or more."),
    (["query", "--all", "--parquet", "a.parquet", "-k", "0"], "aecore query: -k is 0; expected 1 or more."),
    (["duplicates", "-n", "-1"], "aecore duplicates: -n is -1; expected 1 or more."),
    (["duplicates", "--distance", "-1"], "aecore duplicates: --distance is -1; expected 0 or more."),
    (["duplicates", "--distance", "nan"], "aecore duplicates: --distance is nan; expected 0 or more."),
    (["duplicates", "--distance", "inf"], "aecore duplicates: --distance is inf; expected 0 or more."),
    (["duplicates", "--distance", "x"], "aecore duplicates: --distance is 'x'; expected a number, 0 or more."),
    (["duplicates", "--percentile", "101"],
     "aecore duplicates: --percentile is 101; expected more than 0 and less than 100."),
    (["duplicates", "--percentile", "0"],
     "aecore duplicates: --percentile is 0; expected more than 0 and less than 100."),
    (["outliers", "-n", "0"], "aecore outliers: -n is 0; expected 1 or more."),
    (["representatives", "-n", "-1"], "aecore representatives: -n is -1; expected 1 or more."),
    (["sample", "-n", "-1"], "aecore sample: -n is -1; expected 1 to 2000."),
    (["sample", "-n", "1000000000"], "aecore sample: -n is 1000000000; expected 1 to 2000."),
    (["sample", "--seed", "-1"], "aecore sample: --seed is -1; expected 0 to 2147483647."),
    (["interpolate", "1", "2", "--steps", "1"], "aecore interpolate: --steps is 1; expected 2 to 600."),
    (["compress", "a.png", "-o", "a.aec", "--bits", "1"], "aecore compress: --bits is 1; expected 2 to 8."),
    (["compress", "a.png", "-o", "a.aec", "--bits", "9"], "aecore compress: --bits is 9; expected 2 to 8."),
    (["finetune", "--labels", "10", "0"], "aecore finetune: --labels is 0; expected 1 or more."),
    (["finetune", "--seeds", "0"], "aecore finetune: --seeds is 0; expected 1 to 100."),
    (["finetune", "--epochs", "-1"], "aecore finetune: --epochs is -1; expected 1 to 10000."),
    (["ui", "--port", "0"], "aecore ui: --port is 0; expected 1 to 65535."),
    (["ui", "--port", "70000"], "aecore ui: --port is 70000; expected 1 to 65535."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), WRONG)
def test_a_number_that_cannot_be_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("the server was started"))  # in place of these tests
    monkeypatch.chdir(tmp_path)  # no project: nothing is looked at before
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", f"{sentence}\n")


def test_every_number_of_every_command_says_what_it_may_be() -> None:
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    plain = [
        f"{name} {action.option_strings}"
        for name, command in commands.choices.items()
        for action in command._actions
        if action.type in (int, float)
    ]
    assert plain == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "aecore: the following arguments are required: COMMAND; `python -m aecore --help`"),
        (["qurey"], "aecore: there is no command 'qurey' (did you mean 'query'?); `python -m aecore --help`"),
        (["query", "--foo"], "aecore query: there is no --foo here; `python -m aecore query --help`"),
        (["query", "-k"], "aecore query: argument -k: expected one argument; `python -m aecore query --help`"),
        (["compress", "a.png"], "aecore compress: the following arguments are required: -o/--output; `python -m"),
        (["sample", "--from", "there"], "aecore sample: argument --from: invalid choice: 'there' (choose from"),
    ],
)
def test_what_is_not_understood_is_one_line_and_not_the_usage(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(sentence)
    assert error.endswith(" --help` says what there is.\n")
    assert error.count("\n") == 1
