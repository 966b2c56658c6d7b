"""Files of weights from strangers, read so that they can neither run code nor grow beyond their own size."""

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

PLAIN = (str, int, float, bool, type(None))
# The key of safetensors' metadata under which everything but the weights is kept, as JSON.
RECORD = "rnnlab"
_TENSOR, _PAIRS = "__tensor__", "__pairs__"


class UnsafeFile(ValueError):
    """A file that is not what rnnlab writes; the message is the reason, without the file's name."""


def load_archive(file: Path, map_location: Any = "cpu") -> Any:
    """The contents of a `torch.save` archive: plain containers, numbers, text and tensors.

    Unpacked it takes no more than the file does: entries are neither compressed nor laid over one another,
    a tensor has no more elements than its storage, and nothing else is larger than the file.

    Raises:
        UnsafeFile: it is anything else.
        OSError: the file cannot be read.
    """
    size_bytes = _check_entries(file)
    try:
        with warnings.catch_warnings():  # what is no archive of ours is refused without a warning before
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever a malformed pickle makes of PyTorch's reader
        raise UnsafeFile("damaged, or not a checkpoint of rnnlab") from error
    _check_content(content, size_bytes)
    return content


def _check_entries(file: Path) -> int:
    """The size of a file that is a plain zip archive, as `torch.save` writes it."""
    size_bytes = file.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise UnsafeFile("damaged, or not a checkpoint of rnnlab") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UnsafeFile("its entries are compressed, which a checkpoint's are not")
    if sum(entry.file_size for entry in entries) > size_bytes:
        raise UnsafeFile("its entries are together larger than the file")
    pickles = [entry.filename for entry in entries if entry.filename.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].endswith("data.pkl"):
        raise UnsafeFile("not a checkpoint, but an archive of another kind")
    return size_bytes


def _check_content(content: Any, size_bytes: int) -> None:
    """Refuse what is no plain container, and what a file of so many bytes cannot hold."""
    left = size_bytes
    stack = [content]
    while stack:
        value = stack.pop()
        left -= 1
        if left < 0:  # containers that hold one another many times over
            raise UnsafeFile("it stands for more than its size")
        if isinstance(value, Mapping):
            stack.extend(value.keys())
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set):
            stack.extend(value)
        elif isinstance(value, torch.Tensor):
            _check_tensor(value)
        elif not isinstance(value, (*PLAIN, torch.dtype, torch.device, bytes, complex)):
            raise UnsafeFile(f"it holds a {type(value).__name__}; expected plain containers and tensors")


def _check_tensor(tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise UnsafeFile("it holds a tensor that is sparse, quantised or without values")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UnsafeFile(f"it holds a tensor of {tensor.numel():,} elements, more than are stored")


def weights_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """The bytes of all weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def dump_safetensors(content: Mapping[str, Any]) -> bytes:
    """A checkpoint's weights and record in the safetensors format; what only training needs is left out.

    Raises:
        ValueError: the package safetensors is missing.
    """
    state = dict(content["state_dict"])
    extra: dict[str, torch.Tensor] = {}
    record = json.dumps(_encoded(content[RECORD], extra), ensure_ascii=False)
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in {**state, **extra}.items()}
    made: bytes = _safetensors().save(tensors, metadata={RECORD: record})
    return made


def load_safetensors(file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """`state_dict` and record of a file that `dump_safetensors` made.

    Raises:
        UnsafeFile: it is damaged, or has no record of rnnlab.
        ValueError: the package safetensors is missing.
    """
    library = _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        if RECORD not in metadata:
            raise UnsafeFile("it holds weights alone and does not say of which model")
        tensors = library.load_file(file, device=str(map_location))
        record, names = _decoded(json.loads(metadata[RECORD]), tensors)
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        if isinstance(error, UnsafeFile):
            raise
        raise UnsafeFile("damaged, or not a safetensors file of rnnlab") from error
    content = {
        "state_dict": {name: value for name, value in tensors.items() if name not in names},
        RECORD: record,
    }
    _check_content(content, file.stat().st_size)
    return content


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ValueError(
            "a safetensors file needs the package safetensors: pip install 'rnnlab[safetensors]'"
        ) from None
    return safetensors.torch


def _encoded(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Plain containers as JSON has them; tensors are put aside."""
    if isinstance(value, torch.Tensor):
        name = f"{RECORD}.{len(tensors)}"
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _encoded(item, tensors) for key, item in value.items()}
        return {_PAIRS: [[key, _encoded(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_encoded(item, tensors) for item in value]
    return value


def _decoded(value: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, set[str]]:
    """The containers of `_encoded`, and the names of the tensors in them."""
    names: set[str] = set()

    def decode(item: Any) -> Any:
        if isinstance(item, list):
            return [decode(part) for part in item]
        if not isinstance(item, dict):
            return item
        if set(item) == {_TENSOR}:
            names.add(item[_TENSOR])
            return tensors[item[_TENSOR]]
        if set(item) == {_PAIRS}:
            return {key: decode(part) for key, part in item[_PAIRS]}
        return {key: decode(part) for key, part in item.items()}

    return decode(value), names
