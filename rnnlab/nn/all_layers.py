"""A deep recurrent network that shows the outputs of all its layers.

Legend: `T` time, `B` batch, `D` directions, `O` output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnnlab.nn.deep import DeepRNN


class AllLayers(DeepRNN):
    """A `DeepRNN` whose output is that of every layer, side by side, instead of that of the last.

        y_t = [h^1_t, ..., h^L_t]

    With two concatenated directions, what all layers say forwards comes first, and what they say backwards
    after it, as a single layer has it. O = `output_size` is the sum of the layers' widths.

    Source: Graves 2013, "Generating sequences with recurrent neural networks", figure 1.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "return_all_layers": True})
        self._halves = self.bidirectional and self.merge == "concat"
        parameter = next(self.parameters())
        with torch.no_grad():
            outputs, _ = super().forward(parameter.new_zeros(1, 1, self.input_size))
        self.output_size = sum(output.shape[-1] for output in outputs)

    def forward(self, *args: Any, **options: Any) -> tuple[Any, Any]:
        """As `DeepRNN.forward`, with outputs of O features in the form of `x`."""
        outputs, state = super().forward(*args, **options)
        if isinstance(outputs[0], PackedSequence):
            return outputs[0]._replace(data=self._joined([output.data for output in outputs])), state
        return self._joined(outputs), state

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Any, Any]:
        """As `DeepRNN.step`, with outputs of O features."""
        outputs, state = super().step(x_t, state)
        return self._joined(outputs), state

    def _joined(self, outputs: Sequence[Tensor]) -> Tensor:
        if not self._halves:
            return torch.cat(list(outputs), dim=-1)
        pairs = [output.chunk(2, dim=-1) for output in outputs]
        return torch.cat([*(pair[0] for pair in pairs), *(pair[1] for pair in pairs)], dim=-1)
