"""`frugal compare` on a repository whose workflow takes a second: order, verdicts, resumption, and what goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_repository import TinyRepository

from frugal import cli, commits
from frugal.commits import repository, sessions
from frugal.errors import FrugalError

NEVER = 120  # seconds that nothing here takes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with a commit for each outcome."""
    tiny = TinyRepository(tmp_path_factory.mktemp("tiny"))
    tiny.times("plain", sparse=1e-3, twin=2e-3, lib=1e-3)
    tiny.times("same", sparse=1e-3, twin=2e-3, lib=1e-3)
    tiny.times("slower", sparse=1.1e-3, twin=1.5e-3, lib=1e-3)
    tiny.times("wrong", sparse="incorrect", twin=2e-3, lib=1e-3)
    tiny.times("other", gone=1e-3)
    tiny.times("failing", fail="the kernel does not fit: choose a smaller one")
    return tiny


@pytest.fixture
def tiny(made, monkeypatch, tmp_path):
    """That repository as the working folder; results go to a folder of the test's own."""
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(made.folder)
    made.notes_file.write_text("")
    return made


def call(tmp_path, *arguments):
    return cli.main(["compare", *arguments, "--results", str(tmp_path / "results"), "--cores", "1"])


def test_a_slower_arm_ends_with_status_1_and_more_sessions_only_add(tiny, tmp_path, capsys):
    assert call(tmp_path, "plain", "slower", "--sessions", "2") == 1
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines() if line.startswith("net conv")]
    assert len(lines) == 6
    assert [line[3] for line in lines] == ["sparse"] * 3 + ["twin"] * 3  # worst first
    assert all("SLOWER" in line for line in lines[:3])
    assert all("FASTER" in line for line in lines[3:])
    assert "ours: 3 FASTER, 3 SLOWER" in out
    assert "baselines, as a check of the machine: 3 SAME" in out
    assert tiny.notes == ["base 0", "head 0", "head 1", "base 1"]
    assert "[4/4] base plain" in err
    assert tiny.worktrees() == 1

    (found,) = (tmp_path / "results" / "compare").glob("*/comparison.json")
    content = json.loads(found.read_text())
    assert (content["base"]["name"], content["head"]["name"], content["n_sessions"]) == ("plain", "slower", 2)
    sparse = [pair for pair in content["pairs"] if pair["arm"] == "sparse"]
    assert all(pair["ratio"] == pytest.approx(1 / 1.1, rel=0.005) for pair in sparse)

    tiny.notes_file.write_text("")
    assert call(tmp_path, "plain", "slower", "--sessions", "3") == 1
    assert "4 of 6 sessions were measured before" in capsys.readouterr().err
    assert tiny.notes == ["base 2", "head 2"]
    assert call(tmp_path, "plain", "slower", "--sessions", "3") == 1  # nothing is missing: no worktree, no workflow
    assert tiny.notes == ["base 2", "head 2"]


def test_equal_commits_end_with_status_0(tiny, tmp_path, capsys):
    assert call(tmp_path, "plain", "same", "--sessions", "2") == 0
    assert "ours: 6 SAME" in capsys.readouterr().out


def test_an_arm_that_broke_ends_with_status_1(tiny, tmp_path, capsys):
    assert call(tmp_path, "plain", "wrong", "--sessions", "1") == 1
    out = capsys.readouterr().out
    assert "BROKEN (incorrect)" in out
    assert "one session of each: no interval and no verdict" in out


def test_a_workflow_that_fails_ends_in_its_own_sentence_with_status_2(tiny, tmp_path, capsys):
    assert call(tmp_path, "plain", "failing", "--sessions", "1") == 2
    err = capsys.readouterr().err
    assert "head failing (" in err
    assert "): the kernel does not fit: choose a smaller one (all of it is in " in err
    assert "Traceback" not in err
    assert tiny.worktrees() == 1


def test_commits_without_a_case_in_common_cannot_be_compared(tiny, tmp_path, capsys):
    assert call(tmp_path, "plain", "other", "--sessions", "1") == 2
    assert "measure no case of cusnn/layers in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plain", "nowhere"], "nowhere is no commit of this repository"),
        (["--", "plain", "--output=x"], "--output=x is no commit of this repository"),
        (["before", "plain"], "before ("),
        (["before", "plain"], ") has no rule bench_layer, which measures cusnn/layers: choose a later commit"),
        (["plain", "same", "--experiment", "cusnn/sparsity"], "cusnn/sparsity is not one that can be compared"),
        (["plain", "same", "--config", "cusnn.networks"], "write KEY=VALUE"),
        (["plain", "same", "--config", "cusnn.networks=[a"], "write KEY=VALUE"),
        (["plain", "same", "--config", "preset.x=1", "--configfile", "preset.yaml"], "preset is no section"),
        (["plain", "same", "--config", "cusnn.networks=[resnet5]"], "config: cusnn.networks = "),
        (["plain", "same", "--sessions", "0"], "config: timing.sessions = 0"),
        (["plain", "same", "--configfile", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    ],
)
def test_bad_use_is_one_sentence_and_status_2(tiny, tmp_path, capsys, arguments, words):
    (tiny.folder / "preset.yaml").write_text("preset: quick\n")
    options = ["--results", str(tmp_path / "results")]
    assert cli.main(["compare", *options, *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert tiny.notes == []


def test_outside_of_a_repository_and_without_git(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FrugalError, match="is in no git repository: call frugal compare in a clone"):
        commits.compare("plain", "same")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FrugalError, match="git is not installed here"):
        commits.compare("plain", "same")


def test_changes_that_are_not_committed_are_said_and_not_measured(tiny, tmp_path, monkeypatch):
    said = []
    before = (tiny.folder / "times.json").read_text()
    (tiny.folder / "times.json").write_text("{}")
    monkeypatch.setattr(sessions, "measure", lambda *arguments, **options: said.append("measured"))
    try:
        with pytest.raises(FrugalError, match="does not exist"):  # since nothing was measured
            commits.compare("plain", "HEAD", results=tmp_path, say=said.append)
    finally:
        (tiny.folder / "times.json").write_text(before)
    assert said[0].startswith("note: files here differ from their commit")
    assert said[1:] == ["measured"]


def test_two_calls_do_not_measure_into_one_folder(tiny, tmp_path, monkeypatch):
    def meanwhile(*arguments, **options):
        with pytest.raises(FrugalError, match="another frugal compare measures into"):
            commits.compare("plain", "same", results=tmp_path)
        raise FrugalError("done")

    monkeypatch.setattr(sessions, "measure", meanwhile)
    with pytest.raises(FrugalError, match="done"):
        commits.compare("plain", "same", results=tmp_path)


def test_what_a_killed_call_left_is_replaced(tiny, tmp_path):
    commit = repository.resolve(tiny.folder, "plain")
    path = tmp_path / "trees" / "base"
    tiny.git("worktree", "add", "--detach", "--quiet", str(path), "slower")
    (path / "measure.py").write_text("changed")
    with repository.worktree(tiny.folder, commit, path):
        assert json.loads((path / "times.json").read_text())["arms"]["twin"] == 2e-3
        assert (path / "measure.py").read_text() != "changed"
        assert {file.stat().st_mtime for file in path.iterdir() if file.is_file()} == {commit.time}
        assert tiny.worktrees() == 2
    assert not path.exists()
    assert tiny.worktrees() == 1
    with repository.worktree(tiny.folder, commit, path, keep=True):
        pass
    assert (path / "times.json").exists()
    tiny.git("worktree", "remove", "--force", str(path))


def test_ctrl_c_keeps_what_is_finished_and_leaves_no_worktree(tiny, tmp_path):
    tiny.times("sleeping", sleep_s=NEVER, sparse=1e-3)
    command = [sys.executable, "-c", "import sys; from frugal.cli import main; sys.exit(main())"]
    options = ["--sessions", "1", "--results", str(tmp_path / "results"), "--cores", "1"]
    process = subprocess.Popen(
        [*command, "compare", "plain", "sleeping", *options], cwd=tiny.folder, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + NEVER
        while "head 0" not in tiny.notes:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=NEVER)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 130
    assert "frugal: stopped; what is finished is kept" in err
    assert tiny.worktrees() == 1
    (folder,) = (tmp_path / "results" / "compare").glob("*-*-*")
    assert [path.relative_to(folder).parts[0] for path in folder.rglob("session-0.parquet")] == ["base"]


def test_sessions_alternate_so_that_a_drift_cancels():
    order = sessions.order(4)
    assert order == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1), (3, 1), (3, 0)]
    places = {side: [place for place, (_, at) in enumerate(order) if at == side] for side in (0, 1)}
    assert sum(places[0]) == sum(places[1])
