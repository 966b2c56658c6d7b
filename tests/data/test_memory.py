import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.memory import PROBLEMS, DrawnSequences, MemoryData, make_problem
from rnnlab.data.streams import NO_TARGET


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(2, 60), st.integers(1, 5))
def test_adding_marks_one_number_of_each_half(length: int, rows: int) -> None:
    inputs, targets = make_problem("adding", length).draw(rows, generator(length))
    marks = inputs[:, :, 1]
    assert torch.equal(marks[: length // 2].sum(0), torch.ones(rows))
    assert torch.equal(marks[length // 2 :].sum(0), torch.ones(rows))
    assert targets[:-1].isnan().all()
    torch.testing.assert_close(targets[-1], (inputs[:, :, 0] * marks).sum(0))


def test_copy_asks_for_the_first_ten_symbols_after_the_sign() -> None:
    inputs, targets = make_problem("copy", 7).draw(3, generator())
    assert inputs.shape == targets.shape == (27, 3)
    assert ((inputs[:10] >= 1) & (inputs[:10] <= 8)).all()
    assert (inputs[16] == 9).all()
    assert not inputs[10:16].any() and not inputs[17:].any() and not targets[:17].any()
    assert torch.equal(targets[17:], inputs[:10])


def test_temporal_order_has_two_letters_and_their_order() -> None:
    problem = make_problem("temporal_order", 40)
    inputs, targets = problem.draw(50, generator())
    assert ((inputs >= 4).sum(0) == 2).all()
    assert (targets[:-1] == NO_TARGET).all()
    for column in range(50):
        seen = [letter for letter in problem.write(inputs[:, column]) if letter in "XY"]
        assert problem.answer(targets[:, column]) == "".join(seen)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30))
def test_parity_counts_the_ones(bits: list[int]) -> None:
    problem = make_problem("parity", 30)
    text = "".join(map(str, bits))
    inputs = problem.parse(text)
    assert problem.write(inputs) == text
    assert problem.answer(inputs.cumsum(0) % 2) == ("odd" if sum(bits) % 2 else "even")


@pytest.mark.parametrize(
    ("name", "extra"), [("adding", 0), ("copy", 20), ("temporal_order", 0), ("parity", 0)]
)
def test_lengths_vary_up_to_the_longest(name: str, extra: int) -> None:
    problem = make_problem(name, 14)
    drawn = DrawnSequences(problem, 8, seed=0, vary=True)
    batches = [drawn[epoch, [0, 1]] for epoch in range(120)]
    assert {len(batch.inputs) - extra for batch in batches} == set(range(problem.least, 15))
    assert all(len(batch.inputs) == len(batch.targets) == int(batch.lengths[0]) for batch in batches)


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_the_baseline_is_what_guessing_costs(name: str) -> None:
    """Of the answers themselves: their variance, or the entropy of their distribution at each step."""
    problem = make_problem(name, 20)
    _, targets = problem.draw(20000, generator())
    if problem.outputs == 1:
        cost = targets[-1].var(correction=0).item()
    else:
        steps = [row[row != NO_TARGET] for row in targets]
        shares = [row.bincount(minlength=1).double() / len(row) for row in steps if len(row)]
        cost = sum(-(p[p > 0] * p[p > 0].log()).sum().item() for p in shares) / len(shares)
    assert problem.baseline() == pytest.approx(cost, rel=0.02)


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_what_is_written_is_parsed(name: str) -> None:
    problem = make_problem(name, 30)
    inputs, _ = problem.draw(1, generator())
    torch.testing.assert_close(problem.parse(problem.write(inputs[:, 0])), inputs[:, 0], atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_a_seed_decides_everything_and_epochs_differ(name: str) -> None:
    def batches(seed: int) -> list[torch.Tensor]:
        data = MemoryData(name, length=30, epoch_size=16, eval_size=10, batch_size=8, seed=seed)  # type: ignore[arg-type]
        data.setup()
        loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
        found = [batch for loader in loaders for batch in loader]
        loaders[0].sampler.set_epoch(1)
        found += list(loaders[0])
        assert all(batch.inputs.is_contiguous() for batch in found)
        return [batch.inputs for batch in found]

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> list[bool]:
        return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]

    first = batches(3)
    assert all(same(first, batches(3)))
    assert not any(same(first, batches(4)))
    assert not any(same(first[:2], first[-2:]))


def test_the_test_may_be_longer() -> None:
    data = MemoryData("parity", length=5, test_length=10, eval_size=3)
    data.setup()
    assert next(iter(data.val_dataloader())).inputs.shape == (5, 3)
    assert next(iter(data.test_dataloader())).inputs.shape == (10, 3)
    assert data.facts() == {"problem": "parity", "length": 5, "test_length": 10}
    assert f"{math.log(2):.4f}" in data.summary()["baseline"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": "addition"}, "choose from adding, copy"),
        ({"length": 1}, "length is at least 2"),
        ({"problem": "temporal_order", "length": 9}, "length is at least 10"),
        ({"epoch_size": 0}, "at least 1; got 0 and 1000"),
        ({"test_length": 0}, "length is at least 2 for this problem; got 0"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryData(**options)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("adding", "0.3 x", "'x' is no number"),
        ("adding", " ", "there is no number"),
        ("copy", "123", "is not 10 digits from 1 to 8"),
        ("temporal_order", "abe", "letters a, b, c, d, X and Y"),
        ("parity", "012", "not a string of 0 and 1"),
    ],
)
def test_an_input_of_another_form_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_problem(name, 20).parse(text)
