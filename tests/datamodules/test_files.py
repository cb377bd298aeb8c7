"""Folders that appear whole, and folders with one writer."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from datamodules.files import whole_folder, writing_into


def test_a_folder_takes_the_place_of_the_older_one_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/new"]


def test_two_writers_of_one_folder_leave_one_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as first, whole_folder(tmp_path / "out") as second:
        (first / "first").touch()
        (second / "second").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]  # the outer one ended later
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _replace_for_ever(path: Path) -> None:
    while True:
        with whole_folder(path) as folder:
            (folder / "one").touch()
            (folder / "two").touch()


def test_a_kill_leaves_a_whole_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        (folder / "one").touch()
        (folder / "two").touch()
    for milliseconds in range(10):
        writer = multiprocessing.get_context("fork").Process(target=_replace_for_ever, args=(out,))
        writer.start()
        writer.join(milliseconds / 1000)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        assert sorted(path.name for path in out.iterdir()) == ["one", "two"]


def _wait(started: Event) -> None:
    started.set()
    signal.pause()


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with writing_into(tmp_path / "run"):
        with pytest.raises(ValueError, match="run: another run writes here"), writing_into(tmp_path / "run"):
            pass
        # a process forked meanwhile holds nothing
        fork = multiprocessing.get_context("fork")
        started = fork.Event()
        reader = fork.Process(target=_wait, args=(started,), daemon=True)
        reader.start()
        started.wait()
    with writing_into(tmp_path / "run"):
        reader.kill()
        reader.join()
