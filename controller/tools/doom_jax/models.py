"""The equations of V, M and C (vae/vae.py, rnn/rnn.py, rnn/lstm.py, rnn/mdn.py, controller/policy.py) once more, in JAX.

Parameters are dicts of arrays, by the names in the project's weights files.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = dict[str, Any]
MIXTURES = 5


def glorot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Glorot uniform as Keras has it; of a bias, too."""
    area = int(np.prod(shape[:-2]))
    fans = 2 * shape[0] if len(shape) == 1 else area * (shape[-2] + shape[-1])
    limit = np.sqrt(6 / fans)
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def vae_shapes(z: int) -> dict[str, tuple[int, ...]]:
    kernels = {
        "enc_conv1": (4, 4, 3, 32), "enc_conv2": (4, 4, 32, 64), "enc_conv3": (4, 4, 64, 128), "enc_conv4": (4, 4, 128, 256),
        "enc_fc_mu": (1024, z), "enc_fc_log_var": (1024, z), "dec_fc": (z, 1024),
        "dec_deconv1": (5, 5, 128, 1024), "dec_deconv2": (5, 5, 64, 128), "dec_deconv3": (6, 6, 32, 64), "dec_deconv4": (6, 6, 3, 32),
    }  # fmt: skip
    return {f"conv_vae/{name}/kernel": shape for name, shape in kernels.items()}


def vae_init(rng: np.random.Generator, z: int) -> Params:
    params: Params = {}
    for name, shape in vae_shapes(z).items():
        params[name] = glorot(rng, shape)
        params[name.replace("kernel", "bias")] = np.zeros(shape[2] if "deconv" in name else shape[-1], np.float32)
    return params


def vae_encode(p: Params, frames: Any) -> tuple[Any, Any]:
    """uint8 [B, 64, 64, 3] -> mu, logvar."""
    x = frames.astype(np.float32) / 255.0
    for i in range(1, 5):
        kernel, bias = p[f"conv_vae/enc_conv{i}/kernel"], p[f"conv_vae/enc_conv{i}/bias"]
        x = jax.nn.relu(lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias)
    x = x.reshape(len(x), -1)
    return tuple(x @ p[f"conv_vae/{name}/kernel"] + p[f"conv_vae/{name}/bias"] for name in ("enc_fc_mu", "enc_fc_log_var"))


def vae_decode(p: Params, z: Any) -> Any:
    x = (z @ p["conv_vae/dec_fc/kernel"] + p["conv_vae/dec_fc/bias"]).reshape(-1, 1, 1, 1024)
    for i in range(1, 5):
        kernel, bias = p[f"conv_vae/dec_deconv{i}/kernel"], p[f"conv_vae/dec_deconv{i}/bias"]
        if i == 1:
            x = (x[:, 0, 0] @ kernel.reshape(-1, 1024).T).reshape(-1, *kernel.shape[:3]) + bias
        else:
            x = lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True) + bias
        x = jax.nn.relu(x) if i < 4 else jax.nn.sigmoid(x)
    return x


def vae_loss(p: Params, frames: Any, noise: Any, tolerance: float = 0.5) -> tuple[Any, dict[str, Any]]:
    mu, logvar = vae_encode(p, frames)
    y = vae_decode(p, mu + jnp.exp(logvar / 2) * noise)
    reconstruction = jnp.mean(jnp.sum(jnp.square(frames.astype(np.float32) / 255.0 - y), axis=(1, 2, 3)))
    kl = -0.5 * jnp.sum(1 + logvar - jnp.square(mu) - jnp.exp(logvar), axis=1)
    kl = jnp.mean(jnp.maximum(kl, tolerance * mu.shape[1]))
    return reconstruction + kl, {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def adam(p: Params, g: Params, state: tuple[Params, Params], step: Any, rate: Any) -> tuple[Params, tuple[Params, Params]]:
    """TF1's Adam, epsilon 1e-8; `step` counts from 1."""
    m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state[0], g)
    v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, state[1], g)
    t = jnp.asarray(step, jnp.float32)
    rate = rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return jax.tree.map(lambda w, a, b: w - rate * a / (jnp.sqrt(b) + 1e-8), p, m, v), (m, v)


def rnn_init(rng: np.random.Generator, z: int, units: int) -> Params:
    outputs = 1 + 3 * MIXTURES * z
    shapes = {"lstm/kernel": (z + 2 + units, 4 * units), "lstm/bias": (4 * units,), "output/kernel": (units, outputs)}
    return {name: glorot(rng, shape) for name, shape in (shapes | {"output/bias": (outputs,)}).items()}


def cell(sums: Any, c: Any) -> tuple[Any, Any, Any]:
    i, j, f, o = jnp.split(sums, 4, axis=1)
    i, j, f, o = jax.nn.sigmoid(i), jnp.tanh(j), jax.nn.sigmoid(f + 1.0), jax.nn.sigmoid(o)
    c = c * f + i * j
    return jnp.tanh(c) * o, c, jnp.concatenate([i, j, f, o], axis=1)


@jax.custom_vjp
def lstm(x_sums: Any, w: Any, h: Any, c: Any, keep: Any) -> tuple[Any, Any]:
    """The recurrence, whose kernel's gradient is one product over all steps (rnn/lstm.py, recur).

    Args:
        x_sums: the inputs' part of the gates' sums, and the bias, [T, B, 4U].
        w: the kernel's part for h, [U, 4U].
        h, c: the state before, [B, U].
        keep: 0 where h and c are set to zero before the step, else 1: [T, B, 1].

    Returns:
        h after each step [T, B, U], and the last c.
    """
    return _lstm_forward(x_sums, w, h, c, keep)[0]


def _lstm_forward(x_sums: Any, w: Any, h: Any, c: Any, keep: Any) -> tuple[Any, Any]:
    """What `lstm` returns, and what its gradient needs."""

    def step(carry: Any, now: Any) -> Any:
        (h, c), (sums, keep) = carry, now
        h, c = h * keep, c * keep
        new_h, new_c, gates = cell(sums + h @ w, c)
        return (new_h, new_c), (new_h, h, c, gates)

    (_, last_c), (every_h, h_before, c_before, gates) = lax.scan(step, (h, c), (x_sums, keep), unroll=4)
    return (every_h, last_c), (w, keep, h_before, c_before, gates)


def _lstm_backward(saved: Any, given: Any) -> Any:
    w, keep, h_before, c_before, gates = saved
    d_every_h, d_c = given

    def step(carry: Any, now: Any) -> Any:
        (d_h, d_c), (d_output, keep, before, gates) = carry, now
        i, j, f, o = jnp.split(gates, 4, axis=1)
        tanh_c = jnp.tanh(before * f + i * j)
        d_h = d_h + d_output
        d_c = d_c + d_h * o * (1.0 - tanh_c * tanh_c)
        sums = [d_c * j * i * (1.0 - i), d_c * i * (1.0 - j * j), d_c * before * f * (1.0 - f), d_h * tanh_c * o * (1.0 - o)]
        d_sums = jnp.concatenate(sums, axis=1)
        return (keep * (d_sums @ w.T), keep * d_c * f), d_sums

    zero = jnp.zeros_like(d_c)
    (d_h, d_c), d_sums = lax.scan(step, (zero, d_c), (d_every_h, keep, c_before, gates), reverse=True, unroll=4)
    d_w = jnp.einsum("tbu,tbg->ug", h_before, d_sums)
    return d_sums, d_w, d_h, d_c, jnp.zeros_like(keep)


lstm.defvjp(_lstm_forward, _lstm_backward)


def mixture_parts(output: Any, z: int) -> tuple[Any, Any, Any]:
    parts = output.reshape(*output.shape[:-1], z, 3, MIXTURES)
    return tuple(jnp.squeeze(part, -2) for part in jnp.split(parts, 3, axis=-2))


def rnn_loss(p: Params, z: Any, action: Any, first: Any, died: Any, h: Any, c: Any, weight: float = 10.0) -> tuple[Any, Any]:
    """z [B, T, Z], action, first (1 at an episode's first frame), died (1 at an episode's last frame if it ended by death) [B, T]."""
    size, units = z.shape[-1], h.shape[1]
    x = jnp.concatenate([z, action[..., None], first[..., None]], axis=-1).transpose(1, 0, 2)[:-1]
    kernel = p["lstm/kernel"]
    every_h, c = lstm(x @ kernel[:-units] + p["lstm/bias"], kernel[-units:], h, c, 1.0 - first.T[:-1, :, None])
    flat = every_h.reshape(-1, units)
    logit = flat @ p["output/kernel"][:, 0] + p["output/bias"][0]
    logits, mean, log_std = mixture_parts(flat @ p["output/kernel"][:, 1:] + p["output/bias"][1:], size)
    wanted = z.transpose(1, 0, 2)[1:].reshape(-1, size, 1)
    normal = -0.5 * jnp.square((wanted - mean) * jnp.exp(-log_std)) - log_std - 0.5 * np.log(2 * np.pi)
    z_loss = -jnp.mean(jax.nn.logsumexp(jax.nn.log_softmax(logits) + normal, axis=-1))
    target, ended = first.T[1:].reshape(-1), died.T[:-1].reshape(-1)
    w = (1.0 + (weight - 1.0) * target) * (1.0 - target * (1.0 - ended))
    cross = jnp.maximum(logit, 0) - logit * target + jnp.log1p(jnp.exp(-jnp.abs(logit)))
    restart = jnp.mean(w * cross)
    return z_loss + restart, ({"loss": z_loss + restart, "z": z_loss, "restart": restart}, (every_h[-1], c))


def dream_step(p: Params, z: Any, h: Any, c: Any, restart: Any, action: Any, tau: Any, choice: Any, noise: Any) -> tuple[Any, ...]:
    """One imagined step of B dreams (rnn/rnn.py, imagine): choice uniform, noise normal [B, Z], tau [B] -> z, h, c, logit of death."""
    x = jnp.concatenate([z, action, restart, h], axis=1)
    h, c, _ = cell(x @ p["lstm/kernel"] + p["lstm/bias"], c)
    output = h @ p["output/kernel"] + p["output/bias"]
    logits, mean, log_std = mixture_parts(output[:, 1:], z.shape[1])
    tau = tau[:, None]
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / tau[..., None])
    heights = jnp.cumsum(weights, axis=-1)
    picked = jnp.sum(choice[..., None] * heights[..., -1:] > heights[..., :-1], axis=-1, keepdims=True)
    chosen = picked == jnp.arange(MIXTURES)
    mean, log_std = (jnp.sum(jnp.where(chosen, part, 0.0), axis=-1) for part in (mean, log_std))
    return mean + jnp.exp(log_std) * jnp.sqrt(tau) * noise, h, c, output[:, 0]


def act(own: Any, z: Any, h: Any, c: Any) -> Any:
    """C of each lane [B, F] -> its action [B, 1]."""
    return jnp.tanh(jnp.sum(own * jnp.concatenate([z, c, h], axis=1), axis=1, keepdims=True))
