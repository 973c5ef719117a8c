"""The DVC subprocess helper, on a throwaway project with trivial stages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    cmd: cp input a.txt
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


def test_a_stage_ran_is_unchanged_or_was_cached(project: Path) -> None:
    lines: list[str] = []
    ran = pipeline.repro("first", lines.append)
    assert (ran.name, ran.outcome) == ("first", "ran")
    assert "Running stage 'first':" in lines
    assert ran.seconds > 0
    assert pipeline.repro("first", lines.append).outcome == "unchanged"

    (project / "input").write_text("other")
    assert pipeline.repro("first", lines.append).outcome == "ran"
    (project / "input").write_text('{"a": ')
    assert pipeline.repro("first", lines.append).outcome == "cached"
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
