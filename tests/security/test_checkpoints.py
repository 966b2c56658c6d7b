"""Checkpoints from strangers: none runs code, writes a file, or fills the memory."""

import copy
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import World

FILE = "stranger.ckpt"
PREDICT = ("predict", f"checkpoint={FILE}", "a good film")
EVAL = ("eval", f"checkpoint={FILE}")
SAMPLE = ("sample", f"checkpoint={FILE}")
SCORE = ("score", f"checkpoint={FILE}", "a good film")

Content = dict[str, Any]


class Payload:
    """What a pickle does when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.canary}'",)


def test_the_canary_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_checkpoint_of_ours_is_read(world: World, content: Content) -> None:
    torch.save(content, world.folder / FILE)
    outcome = world.run(*PREDICT, "json=true")
    assert outcome.status == 0, outcome
    world.unharmed(outcome)
    assert '"label"' in outcome.out


def write_pickle(content: Content, file: Path, canary: Path) -> None:
    file.write_bytes(pickle.dumps(content | {"x": Payload(canary)}))


def write_archive(content: Content, file: Path, canary: Path) -> None:
    torch.save(content | {"x": Payload(canary)}, file)


def write_old_format(content: Content, file: Path, canary: Path) -> None:
    torch.save(content | {"x": Payload(canary)}, file, _use_new_zipfile_serialization=False)


def write_in_the_state(content: Content, file: Path, canary: Path) -> None:
    torch.save(content | {"state_dict": {**content["state_dict"], "x": Payload(canary)}}, file)


def write_second_pickle(content: Content, file: Path, canary: Path) -> None:
    torch.save(content, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(Payload(canary)))


@pytest.mark.parametrize(
    "write", [write_pickle, write_archive, write_old_format, write_in_the_state, write_second_pickle]
)
def test_pickled_code_does_not_run(world: World, content: Content, write: Callable[..., None]) -> None:
    write(content, world.folder / FILE, world.canary)
    for words in (PREDICT, EVAL):
        world.refuses(*words, told="cannot be read")


RESUME = ("train", f"resume=runs/strange/checkpoints/{FILE}")


@pytest.mark.parametrize("words", [SAMPLE, SCORE, RESUME], ids=lambda words: words[0])
def test_no_command_unpickles(world: World, content: Content, words: tuple[str, ...]) -> None:
    folder = world.folder / "runs" / "strange" / "checkpoints"
    folder.mkdir(parents=True)
    (folder.parent / "config.yaml").write_text("run_dir: runs/strange\n", encoding="utf-8")
    for file in (folder / FILE, world.folder / FILE):
        torch.save(content | {"x": Payload(world.canary)}, file)
    world.refuses(*words, told="cannot be read")


# Names that reach a function that runs a command, or reaches others, by aliases and re-exports.
TARGETS = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "functools.partial",
    "logging.os.system",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "torch.load",
    "torch.hub.load",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.Module.__init__.__globals__.get",
    "rnnlab.training.run.os.system",
    "rnnlab.training.callbacks.shutil.rmtree",
    "rnnlab.training.folder.remove_folder",
    "rnnlab.training.folder.subprocess.run",
    "rnnlab.training.trust.allow",
    "rnnlab.training.targets.build",
    "rnnlab.cli.main",
    "rnnlab.__main__.main",
    "rnnlab.tasks.LanguageModel.load_from_checkpoint",
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "lightning.pytorch.cli.instantiate_class",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.core.saving.save_hparams_to_yaml",
    "lightning.pytorch.demos.boring_classes.BoringModel",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.Trainer",
    "strangers_module.Task",
]
ARGUMENTS = {"command": "touch canary", "path": ".", "args": [], "argv": ["doctor"], "save_dir": "../outside"}


def targeted(content: Content, place: str, target: str) -> Content:
    """A checkpoint whose configuration names `target` in one of its places."""
    changed = copy.deepcopy(content)
    task = changed["rnnlab"]["config"]["task"]
    node = {"_target_": target, **ARGUMENTS}
    if place == "task":
        changed["rnnlab"]["config"]["task"] = node
    elif place == "cell":
        task["model"]["cell"] = node
    elif place == "partial":
        task["optimizer"] = {**node, "_partial_": True}
    elif place == "list":
        task["dense_sizes"] = [{"deep": [node]}]
    elif place == "data":
        changed["rnnlab"]["config"]["data"]["source"] = node
    return changed


@pytest.mark.parametrize("target", TARGETS)
def test_a_name_leads_nowhere_else(world: World, content: Content, target: str) -> None:
    (world.folder / "strangers_module.py").write_text(f"open({str(world.canary)!r}, 'w')", encoding="utf-8")
    places = ("task", "cell", "partial", "list") if target in TARGETS[:5] else ("task",)
    for place in places:
        torch.save(targeted(content, place, target), world.folder / FILE)
        outcome = world.refuses(*PREDICT, told="its model cannot be built here")
        assert target in outcome.err


@pytest.mark.parametrize("target", ["logging.os.system", "rnnlab.cli.main", "rnnlab.DeepRNN"])
def test_the_data_of_a_checkpoint_are_data(world: World, content: Content, target: str) -> None:
    (world.folder / "films.tsv").write_text("text\tlabel\ngood\tyes\nbad\tno\n", encoding="utf-8")
    torch.save(targeted(content, "data", target), world.folder / FILE)
    world.refuses(*EVAL, told=target)


def test_what_was_allowed_to_one_command_is_not_to_the_next(world: World, content: Content) -> None:
    (world.folder / "my_cells.py").write_text(
        "from torch import nn\nclass Cell(nn.GRUCell):\n    pass\n", encoding="utf-8"
    )
    changed = copy.deepcopy(content)
    changed["rnnlab"]["config"]["task"]["model"]["cell"] = {"_target_": "my_cells.Cell", "_partial_": True}
    torch.save(changed, world.folder / FILE)
    world.refuses(*PREDICT, told="allow=my_cells")
    outcome = world.run(*PREDICT, "allow=my_cells")
    assert outcome.status == 0, outcome
    world.refuses(*PREDICT, told="allow=my_cells")


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${oc.decode:'1'}", "${hydra:job.name}", "${seed}"])
@pytest.mark.parametrize("allowed", [(), ("allow=oc.env",)])
def test_no_reference_is_resolved(
    world: World, content: Content, text: str, allowed: tuple[str, ...]
) -> None:
    changed = copy.deepcopy(content)
    changed["rnnlab"]["config"]["data"]["source"] = text
    torch.save(changed, world.folder / FILE)
    outcome = world.refuses(*EVAL, *allowed, told="refers to")
    assert str(world.folder.parent / "home") not in outcome.err


def deep(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


def doubled(levels: int) -> list[Any]:
    inner: list[Any] = ["x"]
    for _ in range(levels):
        inner = [inner, inner]
    return inner


def sized(**values: Any) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        changed = copy.deepcopy(content)
        changed["rnnlab"]["config"]["task"]["model"] |= values
        return changed

    return change


def in_state(tensor: torch.Tensor) -> Callable[[Content], Content]:
    return lambda content: content | {"state_dict": {**content["state_dict"], "x": tensor}}


ABSURD: dict[str, Callable[[Content], Content]] = {
    "2^40 elements in one number": in_state(torch.zeros(1).expand(2**40)),
    "no values": in_state(torch.zeros(3, device="meta")),
    "sparse": in_state(torch.zeros(3).to_sparse()),
    "2^60 lists": lambda content: content | {"x": doubled(60)},
    "hidden_size": sized(hidden_size=10**12),
    "a hidden size of some gigabytes": sized(hidden_size=30_000),
    "beyond an integer": sized(hidden_size=10**30),
    "layers": sized(num_layers=10**9),
    "embedding": lambda content: (
        content
        | {
            "rnnlab": content["rnnlab"]
            | {
                "config": {
                    **content["rnnlab"]["config"],
                    "task": {**_task(content), "embedding_size": 10**11},
                }
            }
        }
    ),
}


def _task(content: Content) -> dict[str, Any]:
    task: dict[str, Any] = content["rnnlab"]["config"]["task"]
    return task


@pytest.mark.parametrize("kind", ABSURD)
def test_sizes_are_known_before_memory_is_taken(world: World, content: Content, kind: str) -> None:
    torch.save(ABSURD[kind](content), world.folder / FILE)
    world.refuses(*PREDICT)


def test_deep_nesting_is_refused(world: World, content: Content) -> None:
    file = world.folder / FILE
    file.write_bytes(b"\x80\x02" + b"](" * 1 + b"]" * 200_000 + b".")
    world.refuses(*PREDICT)
    changed = content | {"rnnlab": {**content["rnnlab"], "facts": {"labels": deep(400)}}}
    torch.save(changed, file)
    world.refuses(*PREDICT)


def rewritten(
    content: Content, file: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]
) -> None:
    """The archive of `content`, each entry written by `change`."""
    torch.save(content, file.with_suffix(".whole"))
    with zipfile.ZipFile(file.with_suffix(".whole")) as whole, zipfile.ZipFile(file, "w") as archive:
        for entry in whole.infolist():
            change(archive, entry, whole.read(entry))


def test_a_compressed_archive_is_not_unpacked(world: World, content: Content) -> None:
    large = content | {"x": torch.zeros(5_000_000)}

    def compress(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, raw: bytes) -> None:
        archive.writestr(entry.filename, raw, zipfile.ZIP_DEFLATED)

    rewritten(large, world.folder / FILE, compress)
    assert (world.folder / FILE).stat().st_size < 100_000
    world.refuses(*PREDICT, told="compressed")


def test_entries_that_lie_over_one_another_are_refused(world: World, content: Content) -> None:
    file = world.folder / FILE
    torch.save(content | {"x": torch.zeros(10_000)}, file)
    raw = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    # The central directory tells that the largest entry is a hundred times as large.
    place = raw.rindex(largest.filename.encode()) - 46
    for field in (20, 24):
        raw[place + field : place + field + 4] = (100 * largest.file_size).to_bytes(4, "little")
    file.write_bytes(bytes(raw))
    world.refuses(*PREDICT, told="cannot be read")


def test_names_that_climb_are_written_nowhere(world: World, content: Content) -> None:
    def climb(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, raw: bytes) -> None:
        name = entry.filename.partition("/")[2]
        archive.writestr(f"../../outside/{name}", raw)

    rewritten(content, world.folder / FILE, climb)
    outcome = world.run(*PREDICT)
    assert outcome.status in (0, 2)
    world.unharmed(outcome)


@pytest.mark.parametrize("part", ["rnnlab", "state_dict", "config", "facts", "task"])
@pytest.mark.parametrize(
    "value", [None, [], "x", {"a": 1}, 3.5, torch.zeros(2)], ids=lambda value: type(value).__name__
)
def test_parts_of_another_kind_are_refused(content: Content, part: str, value: Any, tmp_path: Path) -> None:
    from rnnlab.training.checkpoint import load_task

    changed = copy.deepcopy(content)
    holder = {"config": changed["rnnlab"], "facts": changed["rnnlab"], "task": changed["rnnlab"]["config"]}
    holder.get(part, changed)[part] = value
    torch.save(changed, tmp_path / FILE)
    with pytest.raises(ValueError, match="checkpoint="):
        load_task(tmp_path / FILE)
