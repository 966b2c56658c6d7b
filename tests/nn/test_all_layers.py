"""The outputs of all layers side by side."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab import DeepRNN
from rnnlab.nn.all_layers import AllLayers


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_is_what_deep_rnn_returns_for_all_layers(bidirectional, merge):
    options = {"bidirectional": bidirectional, "merge": merge}
    model = AllLayers("lstm", 3, [4, 2], **options)
    plain = DeepRNN("lstm", 3, [4, 2], return_all_layers=True, **options)
    plain.load_state_dict(model.state_dict())
    x, lengths = torch.randn(6, 2, 3), torch.tensor([6, 4])
    outputs, _ = model(x, lengths=lengths)
    first, second = plain(x, lengths=lengths)[0]
    if bidirectional and merge == "concat":
        expected = [first[..., :4], second[..., :2], first[..., 4:], second[..., 2:]]
    else:
        expected = [first, second]
    torch.testing.assert_close(outputs, torch.cat(expected, dim=-1))
    assert outputs.shape[-1] == model.output_size
    packed, _ = model(pack_padded_sequence(x, lengths))
    torch.testing.assert_close(pad_packed_sequence(packed)[0], outputs)


def test_a_step_is_the_sequence():
    model = AllLayers("gru", 3, 4, num_layers=2)
    x = torch.randn(5, 2, 3)
    outputs, _ = model(x)
    state = None
    for t in range(5):
        output, state = model.step(x[t], state)
        torch.testing.assert_close(output, outputs[t])
