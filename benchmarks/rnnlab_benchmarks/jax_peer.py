"""JAX as a peer: `lax.scan` under `jit`, where JAX is installed.

The cells are written once more here, in jax.numpy. Legend: `T` time, `B` batch, `I` input, `H` hidden.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rnnlab_benchmarks.cases import Case
    from rnnlab_benchmarks.subjects import Problem, Runner


class Jax:
    """`jax.lax.scan` under `jax.jit`, gradients by `jax.vjp`, inputs and weights given as JAX arrays."""

    name = "jax"

    def refusal(self, case: Case) -> str | None:
        if find_spec("jax") is None:
            return "JAX is not installed"
        return None if case.cell in _STEPS else "the cell is not written in JAX here"

    def prepare(self, problem: Problem) -> Runner:
        return _JaxRunner(problem)


class _JaxRunner:
    def __init__(self, problem: Problem) -> None:
        import jax
        import jax.numpy as jnp

        step, states = _STEPS[problem.case.cell]
        self.parameters = {k: jnp.asarray(p.detach().numpy()) for k, p in problem.cell.named_parameters()}
        self.x = jnp.asarray(problem.x.numpy())
        self.cotangent = jnp.asarray(problem.cotangent.numpy())
        initial = tuple(jnp.zeros((problem.x.shape[1], problem.case.shape.H)) for _ in range(states))

        def forward(parameters: Any, x: Any) -> Any:
            def one(state: Any, x_t: Any) -> Any:
                new = step(jax, jnp, parameters, x_t, state)
                return new, new[0]

            final, outputs = jax.lax.scan(one, initial, x)
            return outputs, final

        def train(parameters: Any, x: Any, cotangent: Any) -> Any:
            _, pull = jax.vjp(lambda p, x: forward(p, x)[0], parameters, x)
            return pull(cotangent)

        self._forward, self._train, self._block = jax.jit(forward), jax.jit(train), jax.block_until_ready

    def infer(self) -> Tensor:
        outputs, _ = self._block(self._forward(self.parameters, self.x))
        return torch.from_dlpack(outputs)

    def train(self) -> Any:
        return self._block(self._train(self.parameters, self.x, self.cotangent))

    def results(self) -> dict[str, Tensor]:
        import numpy as np

        outputs, final = self._block(self._forward(self.parameters, self.x))
        parameters, x = self.train()
        found = {"outputs": outputs, "gradient of inputs": x}
        found |= {f"final state {k}": state for k, state in enumerate(final)}
        found |= {f"gradient of {k}": gradient for k, gradient in parameters.items()}
        return {k: torch.from_numpy(np.array(v)) for k, v in found.items()}


def _rnn(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    (h,) = state
    return (jnp.tanh(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]),)


def _gru(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    (h,) = state
    x_r, x_z, x_n = jnp.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ p["weight_hh"].T + p["bias_hh"], 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,)


def _lstm(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    h, c = state
    gates = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


_STEPS = {"rnn": (_rnn, 1), "gru": (_gru, 1), "lstm": (_lstm, 2)}
