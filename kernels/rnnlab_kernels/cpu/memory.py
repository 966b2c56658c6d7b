"""Memory for the sequences that a kernel leaves to another, used again from call to call.

The C library gives large blocks back to the system, which then maps and clears every page of the next one:
up to a quarter of the time of a training step.
"""

from collections.abc import Sequence
from sys import getrefcount
from threading import Lock

import torch
from torch import Tensor

LEAST_BYTES = 1 << 18
"""Smaller blocks stay with the C library by themselves."""
MOST_BYTES = 256 << 20
"""How much is held at most, in use or not."""

_users = torch._C._storage_Use_Count
_modes = torch._C._len_torch_dispatch_stack


class Pool:
    """Blocks of memory that are lent again as soon as no tensor holds them."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._blocks: list[tuple[int, torch.UntypedStorage]] = []
        self._lock = Lock()

    def empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor of that shape and of the other's dtype, whose values are whatever was there."""
        strides = [1]
        for size in reversed(shape):
            strides.insert(0, strides[0] * size)
        needed = strides.pop(0) * like.itemsize
        # A mode that watches operators, as selective checkpoints do, takes `set_` for a change of values.
        if needed < LEAST_BYTES or needed > self.most_bytes or _modes():
            return like.new_empty(shape)
        # A child that was forked in another thread's turn would wait for ever.
        if not self._lock.acquire(blocking=False):
            return like.new_empty(shape)
        try:
            block = self._free(_rounded(needed))
            return like.new_empty(0).set_(block, 0, torch.Size(shape), torch.Size(strides))
        finally:
            self._lock.release()

    def _free(self, size: int) -> torch.UntypedStorage:
        """A block that nobody uses: one that is held, or a new one in place of the oldest."""
        for known, block in self._blocks:
            # A user's `tensor.untyped_storage()` is this very object, which the tensors' count leaves out.
            if known != size or _users(block._cdata) != 1 or getrefcount(block) != _ALONE:
                continue
            # One that another process can see is never used again, nor one that was resized.
            if block.nbytes() == size and not block.is_shared():
                return block
        block = torch.UntypedStorage(size, device="cpu")
        self._blocks.append((size, block))
        self.held_bytes += size
        while self.held_bytes > self.most_bytes:
            self.held_bytes -= self._blocks.pop(0)[0]
        return block


def _alone() -> int:
    """What Python counts where `Pool._free` looks at a block that nobody else holds."""
    counts = []
    for _, block in [(0, torch.UntypedStorage(0))]:
        counts.append(getrefcount(block))
    return counts[0]


_ALONE = _alone()


def _rounded(size: int) -> int:
    """At most an eighth more, so that there are few sizes, and sequences of like lengths share blocks."""
    unit = max(1 << (size.bit_length() - 4), 64)
    return -(-size // unit) * unit


pool = Pool()
