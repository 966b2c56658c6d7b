"""What a shell is offered, and that the bash script hands it over."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rnnlab.completion import SCRIPTS, complete


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rnnlab tr", {"train"}),
        ("rnnlab completion z", {"zsh"}),
        ("rnnlab train cell=", {"cell=gru", "cell=lstm", "cell=rnn"}),
        ("rnnlab train cel", {"cell="}),
        ("rnnlab train model.hid", {"model.hidden_size="}),
        (
            "rnnlab train trainer.deterministic=",
            {"trainer.deterministic=true", "trainer.deterministic=false"},
        ),
        (
            "rnnlab train callbacks.",
            {f"callbacks.{name}." for name in ("checkpoint", "curve", "numbers", "pictures", "progress")},
        ),
        (
            "rnnlab train callbacks=early_stopping callbacks.early_stopping.pat",
            {"callbacks.early_stopping.patience="},
        ),
        ("rnnlab train --conf", {"--config-dir"}),
        ("rnnlab eval split=", {"split=test", "split=validation"}),
        ("rnnlab eval model.", set()),
        ("rnnlab predict checkpoint=", set()),
        ("rnnlab nothing ", set()),
    ],
)
def test_offers(line: str, offered: set[str]) -> None:
    found = set(complete(line))
    assert offered <= found if line.endswith("cell=") else offered == found


def test_a_users_folder_adds_options(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "mine_own.yaml").write_text("_target_: mine.Cell\n", encoding="utf-8")
    assert complete(f"rnnlab train --config-dir {tmp_path} cell=mine_") == ["cell=mine_own"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    script = SCRIPTS["bash"] + (
        '\nline="rnnlab train cell=lst"; COMP_LINE="$line"; COMP_POINT=${#line}; compopt() { :; }'
        '\n_rnnlab_complete; echo "${COMPREPLY[*]}"\n'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout == "lstm\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    file = tmp_path / "script"
    file.write_text(SCRIPTS[shell], encoding="utf-8")
    subprocess.run([program, "-n", str(file)], check=True)
