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


def _gates(jnp: Any, p: Any, x: Any, h: Any) -> Any:
    gates = x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
    return jnp.split(gates, 4, axis=-1)


def _lstm(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    h, c = state
    i, f, g, o = _gates(jnp, p, x, h)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _peephole_lstm(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    h, c = state
    i, f, g, o = _gates(jnp, p, x, h)
    i, f = jax.nn.sigmoid(i + p["weight_ci"] * c), jax.nn.sigmoid(f + p["weight_cf"] * c)
    c = f * c + i * jnp.tanh(g)
    return jax.nn.sigmoid(o + p["weight_co"] * c) * jnp.tanh(c), c


def _layer_norm(jax: Any, jnp: Any, rows: Any, weight: Any, bias: Any) -> Any:
    centred = rows - rows.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * weight + bias


def _layer_norm_lstm(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    h, c = state
    gates = _layer_norm(jax, jnp, x @ p["weight_ih"].T, p["weight_ln_ih"], p["bias_ih"])
    gates += _layer_norm(jax, jnp, h @ p["weight_hh"].T, p["weight_ln_hh"], p["bias_hh"])
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    normal = _layer_norm(jax, jnp, c, p["weight_ln_c"], p["bias_ln_c"])
    return jax.nn.sigmoid(o) * jnp.tanh(normal), c


def _gru_reset_before(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    (h,) = state
    x_r, x_z, x_n = jnp.split(x @ p["weight_ih"].T + p["bias_ih"], 3, axis=-1)
    (weight_r, weight_z, weight_n), (bias_r, bias_z, bias_n) = (
        jnp.split(p[name], 3) for name in ("weight_hh", "bias_hh")
    )
    r = jax.nn.sigmoid(x_r + h @ weight_r.T + bias_r)
    z = jax.nn.sigmoid(x_z + h @ weight_z.T + bias_z)
    n = jnp.tanh(x_n + (r * h) @ weight_n.T + bias_n)
    return ((1 - z) * n + z * h,)


def _lem(jax: Any, jnp: Any, p: Any, x: Any, state: Any) -> Any:
    y, z = state
    x_1, x_2, x_z, x_y = jnp.split(x @ p["weight_ih"].T + p["bias_ih"], 4, axis=-1)
    h_1, h_2, h_z = jnp.split(y @ p["weight_hh"].T, 3, axis=-1)
    d_1, d_2 = jax.nn.sigmoid(x_1 + h_1), jax.nn.sigmoid(x_2 + h_2)
    z = (1 - d_1) * z + d_1 * jnp.tanh(x_z + h_z)
    return (1 - d_2) * y + d_2 * jnp.tanh(x_y + z @ p["weight_hh_y"].T), z


_STEPS = {
    "rnn": (_rnn, 1),
    "gru": (_gru, 1),
    "lstm": (_lstm, 2),
    "peephole_lstm": (_peephole_lstm, 2),
    "layer_norm_lstm": (_layer_norm_lstm, 2),
    "gru_reset_before": (_gru_reset_before, 1),
    "lem": (_lem, 2),
}
