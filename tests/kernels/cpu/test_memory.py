"""Memory that kernels use again: never while anybody can see it."""

import copy
from functools import partial

import pytest
import torch
from rnnlab_kernels.cpu.memory import LEAST_BYTES, Pool
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import rnnlab

LIKE = torch.zeros(1)
SHAPE = (4, LEAST_BYTES // 16, 2)


def test_a_block_is_lent_again_once_nobody_holds_it():
    pool = Pool()
    first = pool.empty(LIKE, SHAPE)
    assert first.shape == SHAPE and first.dtype == torch.float32 and first.is_contiguous()
    address = first.data_ptr()
    second = pool.empty(LIKE, SHAPE)
    assert second.data_ptr() != address
    del first
    assert pool.empty(LIKE, SHAPE).data_ptr() == address
    assert pool.empty(LIKE.double(), (*SHAPE[:2], 1)).data_ptr() == address


@pytest.mark.parametrize(
    "hold",
    [
        lambda t: t[1:, :1],
        lambda t: t.detach().numpy(),
        torch.utils.dlpack.to_dlpack,
        lambda t: torch.nn.Parameter(t),
        lambda t: t.view(torch.int32),
        lambda t: t.untyped_storage(),
        lambda t: t[1:].untyped_storage(),
    ],
    ids=["view", "numpy", "dlpack", "parameter", "other type", "storage", "storage of a view"],
)
def test_a_block_is_not_lent_while_something_sees_it(hold):
    pool = Pool()
    tensor = pool.empty(LIKE, SHAPE)
    address = tensor.data_ptr()
    held = hold(tensor)
    del tensor
    assert pool.empty(LIKE, SHAPE).data_ptr() != address
    del held
    assert pool.empty(LIKE, SHAPE).data_ptr() == address


def test_a_block_that_another_process_may_see_is_never_lent_again():
    pool = Pool()
    shared = pool.empty(LIKE, SHAPE).share_memory_()
    address = shared.data_ptr()
    del shared
    assert pool.empty(LIKE, SHAPE).data_ptr() != address


def test_a_block_that_was_resized_is_not_lent_again():
    pool = Pool()
    tensor = pool.empty(LIKE, SHAPE)
    tensor.resize_(8 * tensor.numel())
    del tensor
    again = pool.empty(LIKE, SHAPE)
    again.fill_(1)
    assert again.untyped_storage().nbytes() < 2 * again.nbytes


def test_what_is_held_has_a_limit():
    pool = Pool(most_bytes=4 * LEAST_BYTES)
    for size in range(1, 40):
        tensor = pool.empty(LIKE, (size, LEAST_BYTES // 16))
        tensor.fill_(size)
        assert pool.held_bytes <= pool.most_bytes
    kept = [pool.empty(LIKE, (1, LEAST_BYTES // 4)).fill_(i) for i in range(9)]
    assert pool.held_bytes <= pool.most_bytes
    assert all(bool((tensor == i).all()) for i, tensor in enumerate(kept))


def test_like_sizes_share_a_block():
    pool = Pool()
    address = pool.empty(LIKE, (1000, 1000)).data_ptr()
    assert pool.empty(LIKE, (990, 1000)).data_ptr() == address


def test_nobody_waits_for_the_pool():
    pool = Pool()
    address = pool.empty(LIKE, SHAPE).data_ptr()
    with pool._lock:  # as another thread holds it, or held it when this process was forked
        tensor = pool.empty(LIKE, SHAPE)
    assert tensor.shape == SHAPE
    assert pool.empty(LIKE, SHAPE).data_ptr() == address


@pytest.mark.parametrize("cell", ["lstm", "layer_norm_gru"])
def test_passes_that_overlap_do_not_disturb_each_other(cell):
    torch.manual_seed(0)
    net = rnnlab.DeepRNN(cell, 16, 64, num_layers=2, backend="fused")
    inputs = [torch.randn(40, 32, 16) for _ in range(3)]

    def gradients(net: torch.nn.Module) -> list[torch.Tensor]:
        found = [p.grad for p in net.parameters()]
        net.zero_grad()
        return [grad for grad in found if grad is not None]

    alone = []
    for x in inputs:
        net(x)[0].square().sum().backward()
        alone.append(gradients(net))
    open_passes = [net(x)[0].square().sum() for x in inputs]
    for number in (1, 2, 0):
        open_passes[number].backward(retain_graph=True)
        together = gradients(net)
        assert all(torch.equal(a, b) for a, b in zip(together, alone[number], strict=True))
    # The same graph once more, after others have used memory that was free.
    other = copy.deepcopy(net)
    other(inputs[1])[0].square().sum().backward()
    open_passes[2].backward()
    assert all(torch.equal(a, b) for a, b in zip(gradients(net), alone[2], strict=True))


def test_what_is_saved_may_be_kept_by_its_memory_alone():
    net = rnnlab.DeepRNN("lstm", 16, 64, num_layers=2, backend="fused")
    x = torch.randn(40, 32, 16)
    net(x)[0].square().sum().backward()
    wanted = [p.grad for p in net.parameters()]
    net.zero_grad()

    def pack(tensor):
        return tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype

    def unpack(packed):
        *place, dtype = packed
        return torch.empty(0, dtype=dtype).set_(*place)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        loss = net(x)[0].square().sum()
    for _ in range(2):  # others take what memory is free
        net(torch.randn(40, 32, 16))[0].square().sum().backward()
    net.zero_grad()
    loss.backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), wanted, strict=True))


def test_a_selective_checkpoint_may_save_everything():
    net = rnnlab.DeepRNN("lstm", 16, 64, backend="fused")
    x = torch.randn(40, 32, 16)
    net(x)[0].square().sum().backward()
    wanted = [p.grad for p in net.parameters()]
    net.zero_grad()
    contexts = partial(create_selective_checkpoint_contexts, lambda *_, **__: CheckpointPolicy.MUST_SAVE)
    loss = checkpoint(lambda x: net(x)[0].square().sum(), x, use_reentrant=False, context_fn=contexts)
    loss.backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), wanted, strict=True))
