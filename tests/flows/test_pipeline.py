"""The DVC subprocess helper, on a throwaway project with trivial stages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows import pipeline

ROOT = Path(__file__).resolve().parents[2]

DVC_YAML = """
stages:
  last:
    cmd: cat a.txt b.txt > last.json
    deps: [a.txt, b.txt]
    metrics: [last.json: {cache: false}]
  second:
    cmd: echo working on the second; echo '"x"}' > b.txt
    deps: [a.txt]
    outs: [b.txt]
  first:
    cmd: cp input a.txt; echo copied
    deps: [input]
    outs: [a.txt]
  wrong:
    cmd: echo train.epochs is -1 >&2; exit 2
    deps: [input]
  slow:
    cmd: (trap '' TERM; sleep 60; true) & echo $! > inner; echo sleeping; sleep 60; wait
    deps: [input]
    outs: [slow.txt]
"""


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "input").write_text('{"a": ')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        dvc("init", "-q")
        dvc("config", "core.analytics", "false")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether process `pid` ends within so many seconds (a zombie has ended)."""
    for _ in range(int(seconds * 20)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_each_stage_comes_after_what_it_depends_on(project: Path) -> None:
    names = pipeline.stages()
    assert sorted(names) == ["first", "last", "second", "slow", "wrong"]
    assert names.index("first") < names.index("second") < names.index("last")


def test_the_stages_are_those_of_the_root_and_what_they_need(project: Path) -> None:
    """The repository's other pipelines, and data that no stage reads, are somebody else's."""
    for folder, needed in (("made", "../input"), ("benchmarks", "no")):
        (project / folder).mkdir()
        stage = f"stages:\n  {folder}:\n    cmd: cp {needed} out\n    outs: [{needed}]\n"
        (project / folder / "dvc.yaml").write_text(stage)
    (project / "raw").write_text("tracked, and read")
    (project / "notes").write_text("tracked, and not read")
    dvc("add", "-q", "raw", "notes")
    text = (project / "dvc.yaml").read_text().replace("deps: [a.txt]", "deps: [a.txt, raw]")
    (project / "dvc.yaml").write_text(text)
    names = pipeline.stages()
    assert sorted(names) == ["first", "last", "made/dvc.yaml:made", "raw.dvc", "second", "slow", "wrong"]
    assert names.index("made/dvc.yaml:made") < names.index("first")
    assert names.index("raw.dvc") < names.index("second")
    (project / "raw").write_text("changed")
    recorded = pipeline.repro("raw.dvc", lambda line: None)
    assert (recorded.outcome, recorded.last) == ("ran", "")


def test_a_clone_of_this_repository_has_the_stages_of_its_dvc_yaml(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    expected = list(YAML(typ="safe").load(clone / "dvc.yaml")["stages"])
    assert sorted(pipeline.stages()) == sorted(expected)
    status = json.loads(pipeline.ask("status", "--json"))
    assert sorted(status) == sorted(expected)


def test_a_stage_ran_is_unchanged_or_was_cached(project: Path) -> None:
    lines: list[str] = []
    ran = pipeline.repro("first", lines.append)
    assert (ran.name, ran.outcome, ran.last) == ("first", "ran", "copied")  # its own last line, not DVC's advice
    assert "Running stage 'first':" in lines
    assert ran.seconds > 0
    unchanged = pipeline.repro("first", lines.append)
    assert (unchanged.outcome, unchanged.last) == ("unchanged", "")

    (project / "input").write_text("other")
    ran = pipeline.repro("first", lines.append)
    assert (ran.outcome, ran.last) == ("ran", "copied")
    (project / "input").write_text('{"a": ')
    cached = pipeline.repro("first", lines.append)
    assert (cached.outcome, cached.last) == ("cached", "")
    assert (project / "a.txt").read_text() == '{"a": '


def test_a_failure_shows_the_last_lines_and_the_programs_own_status(project: Path) -> None:
    with pytest.raises(pipeline.CommandFailed, match=r"(?s)exit status 2.*epochs is -1") as info:
        pipeline.repro("wrong", lambda line: None)
    assert info.value.status == 2
    assert not isinstance(info.value, pipeline.Interrupted)


def test_a_stage_ended_by_a_signal_is_told_apart(project: Path) -> None:
    text = (project / "dvc.yaml").read_text().replace("echo train.epochs is -1 >&2; exit 2", "kill -9 $$")
    (project / "dvc.yaml").write_text(text)
    with pytest.raises(pipeline.Interrupted, match="-9"):
        pipeline.repro("wrong", lambda line: None)


def test_what_is_not_a_stage_is_refused(project: Path) -> None:
    with pytest.raises(pipeline.CommandFailed, match="nosuch"):
        pipeline.repro("nosuch", lambda line: None)


def test_a_lock_held_by_another_command_is_told_apart(project: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-s", "slow"], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        assert holder.stdout is not None
        assert any(line.startswith("sleeping") for line in holder.stdout)
        with pytest.raises(pipeline.Locked, match="another DVC command is running"):
            pipeline.repro("slow", lambda line: None)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_other_commands_run_in_the_same_way(project: Path) -> None:
    done = pipeline.command("hello", ["this"], lambda line: None)
    assert (done.name, done.outcome) == ("hello", "done")
    with pytest.raises(pipeline.CommandFailed, match="No module named nosuch"):
        pipeline.command("nothing", ["nosuch"], lambda line: None)


def test_a_command_that_answers_in_json(project: Path) -> None:
    (project / "told.py").write_text(
        "import sys\nprint('{\"a\":'); print('half way', file=sys.stderr)\nprint('[1, 2]}')\n"
        "sys.exit('the model is another: mend it' if sys.argv[1:] else 0)\n"
    )
    lines: list[str] = []
    assert pipeline.answer("told", ["told"], lines.append) == {"a": [1, 2]}
    assert lines == ["half way"]
    with pytest.raises(pipeline.CommandFailed, match=r"(?s)told failed.*half way\n  the model is another: mend it$"):
        pipeline.answer("told", ["told", "wrong"], lines.append)


def test_an_answer_that_is_no_json_is_a_failure_that_shows_it(project: Path) -> None:
    (project / "told.py").write_text("print('View run at http://…')\nprint('{}')\n")
    with pytest.raises(
        pipeline.CommandFailed, match=r"(?s)told failed.*should be JSON.*\n  View run at http://…\n  {}$"
    ):
        pipeline.answer("told", ["told"], lambda line: None)
    (project / "told.py").write_text("")
    with pytest.raises(pipeline.CommandFailed, match=r"should be JSON; it printed:\n  nothing$"):
        pipeline.answer("told", ["told"], lambda line: None)


def test_the_stage_is_ended_with_its_caller(project: Path) -> None:
    """SIGTERM to the caller ends DVC, its shell and a grandchild that ignores SIGTERM."""
    script = (
        "import signal, sys\n"
        "from flows import pipeline\n"
        "pipeline.GRACE = 1.0\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "pipeline.repro('slow', lambda line: print(line, flush=True))\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert caller.stdout is not None
    assert any(line.startswith("sleeping") for line in caller.stdout)
    inner = int((project / "inner").read_text())
    caller.send_signal(signal.SIGTERM)
    assert caller.wait(timeout=30) == 143
    caller.stdout.close()
    assert gone(inner)
    assert pipeline.repro("first", lambda line: None).outcome == "ran"  # and DVC's lock is free again
