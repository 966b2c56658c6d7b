"""What is installed is what was written: a wheel, looked into and used from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "rnnlab",
    "conf",
    "kernels",
    "benchmarks",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "NOTICE",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that the tree stays clean."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist")],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    (made,) = (copy / "dist").glob("*.whl")
    return made


def shipped(folder: str, *suffixes: str) -> set[str]:
    files = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes and path.is_file())
    return {path.relative_to(ROOT / folder).as_posix() for path in files if "__pycache__" not in path.parts}


def test_a_wheel_holds_code_configuration_data_and_terms(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"rnnlab/conf/{name}" for name in shipped("conf", ".yaml", ".py")} <= inside
    assert {
        f"rnnlab/{name}" for name in shipped("rnnlab", ".py", ".typed", ".xz", ".html", ".css", ".js")
    } <= inside
    assert {f"rnnlab_kernels/{name}" for name in shipped("kernels/rnnlab_kernels", ".py", ".hpp")} <= inside
    assert {f"rnnlab_benchmarks/{name}" for name in shipped("benchmarks/rnnlab_benchmarks", ".py")} <= inside
    assert any(name.endswith("licenses/NOTICE") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not [name for name in inside if name.startswith(("tests", "conf/", "kernels/", "docs"))]


def test_a_wheel_in_a_new_environment_trains_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """A new environment that finds only the dependencies in this one's packages."""
    home, work = tmp_path / "venv", tmp_path / "empty"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
    )
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [str(home / "bin" / "rnnlab"), *words], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = subprocess.run(
        [str(python), "-c", "import rnnlab; print(rnnlab.__file__)"], cwd=work, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(place.stdout.strip()).is_relative_to(packages)
    told = run("train", "trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
    assert "accuracy" in told
    (folder,) = (work / "runs" / "sentiment").iterdir()
    assert "positive" in run("predict", f"checkpoint={folder}", "a warm, funny, engaging film")
