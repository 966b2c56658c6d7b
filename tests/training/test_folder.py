"""A run's folder belongs to one run; it is named, found and taken away again as promised."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rnnlab.training.folder import environment, git_revision, make_folder, remove_folder
from rnnlab.training.settings import Settings


def test_many_runs_of_one_instant_have_a_folder_each(tmp_path: Path) -> None:
    settings = Settings(name="twin", output_dir=str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: make_folder(settings), range(64)))
    assert len(set(folders)) == 64
    assert all(folder.parent == tmp_path / "twin" and folder.is_dir() for folder in folders)


@pytest.mark.parametrize("name", ["../outside", "..", "a/b", "größe 1"])
def test_a_name_stays_one_folder_below_output_dir(name: str, tmp_path: Path) -> None:
    folder = make_folder(Settings(name=name, output_dir=str(tmp_path)))
    assert folder.resolve().parent.parent == tmp_path.resolve()


def test_a_folder_of_the_users_choice_must_be_new_or_empty(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"
    assert make_folder(Settings(run_dir=str(wanted))) == wanted
    assert make_folder(Settings(run_dir=str(wanted))) == wanted
    (wanted / "note").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="exists already"):
        make_folder(Settings(run_dir=str(wanted)))
    with pytest.raises(ValueError, match="exists already"):
        make_folder(Settings(run_dir=str(wanted / "note")))


def test_removal_takes_empty_parents_and_spares_other_runs(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    first = make_folder(Settings(name="x", output_dir=str(output)))
    second = make_folder(Settings(name="x", output_dir=str(output)))
    (first / "deep").mkdir()
    (first / "deep" / "file").write_text("", encoding="utf-8")
    (first / "link").symlink_to(tmp_path)
    remove_folder(first)
    assert not first.exists()
    assert second.exists()
    remove_folder(second)
    assert not output.exists()
    assert tmp_path.exists()


def test_git_revision_tells_whether_files_differ(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / "a").write_text("1", encoding="utf-8")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    clean = git_revision(tmp_path)
    assert clean is not None
    assert len(clean["revision"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert git_revision(tmp_path) == {"revision": clean["revision"], "dirty": True}


def test_the_environment_is_plain_and_complete() -> None:
    found = environment()
    assert {"python", "packages", "platform", "cpu", "threads", "gpus", "git", "command"} <= set(found)
    assert found["packages"]["torch"]
    assert found["cpu"]
