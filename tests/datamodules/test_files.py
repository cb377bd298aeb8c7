"""Folders that appear whole, and folders with one writer."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from datamodules.files import room_for, whole_folder, writing_into


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
    (tmp_path / ".out.0123abcd.part").mkdir()
    (tmp_path / ".out.0123abcd.part" / "precious").touch()  # somebody's: our marker is not there
    with whole_folder(out):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.0123abcd.part", "out"]


def test_what_must_stay_stays_though_it_came_meanwhile(tmp_path: Path) -> None:
    def empty(path: Path) -> None:
        if path.exists() and any(path.iterdir()):
            raise ValueError("holds other files")

    with pytest.raises(ValueError, match="holds other files"), whole_folder(tmp_path / "out", empty):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/thesis.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with whole_folder(tmp_path / "out") as folder:
        (folder / "one").touch()
    assert (tmp_path / "out").is_symlink() and [path.name for path in (tmp_path / "disk").iterdir()] == ["one"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for writer in (whole_folder, writing_into):
        with pytest.raises(ValueError, match="file.* cannot be written .*; a folder with room"):
            with writer(tmp_path / "file" / "out"):
                pass


@pytest.mark.parametrize("error", [OSError(28, "x"), RuntimeError("write: No space left on device (os error 28)")])
def test_a_full_disk_is_one_line_that_names_folder_and_room(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ValueError, match=r"out cannot be written \(.*No space left.*\); a folder with 1.0 MiB"):
        with room_for(tmp_path / "out", 2**20):
            raise error
    with pytest.raises(ValueError, match=r"out needs at least [\d,.]+ MiB, [\d,.]+ MiB are free"):
        with room_for(tmp_path / "out", 2**60):
            pass


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
