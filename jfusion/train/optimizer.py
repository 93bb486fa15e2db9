"""Adam as PyTorch computes it, with a state that can be saved."""

from __future__ import annotations

import numpy as np

from jfusion.runtime import jt
from jfusion.systems.base import OptimizerConfig

# The smallest normal float32. Compiled for speed, the square root of a denormal number, which a gradient
# below 3e-18 gives, is NaN on CPUs with AVX-512. Next to epsilon this is nothing.
SMALLEST = float(np.finfo(np.float32).tiny)


class Adam:
    """Adam (Kingma and Ba, 2015) with epsilon added after the bias correction, as in PyTorch.

    Jittor's own adds epsilon before it, which changes the first updates of parameters with small
    gradients by several percent. parameters: by name, of any shapes. weight_decay is L2 (added to the
    gradient), or, decoupled, a part of the parameter that is subtracted first (AdamW, Loshchilov and
    Hutter, 2019). clip_norm bounds the L2 norm of the whole gradient.
    """

    def __init__(
        self,
        parameters: dict[str, jt.Var],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        decoupled: bool = False,
    ):
        self.parameters = dict(parameters)
        self.betas, self.eps = betas, eps
        self.weight_decay, self.clip_norm, self.decoupled = weight_decay, clip_norm, decoupled
        self.steps = 0
        # Flat, so that one set of kernels serves parameters of every number of dimensions.
        self.mean = {k: jt.zeros(p.numel()).stop_grad() for k, p in self.parameters.items()}
        self.square = {k: jt.zeros(p.numel()).stop_grad() for k, p in self.parameters.items()}

    @classmethod
    def from_config(cls, config: OptimizerConfig) -> Adam:
        """The optimizer that a system asks for; its learning rate is given to each update."""
        return cls(
            config.parameters,
            config.betas,
            config.eps,
            config.weight_decay,
            config.clip_norm,
            config.decoupled,
        )

    def step(self, loss: jt.Var, learning_rate: float) -> None:
        """Updates every parameter once, down the gradient of the scalar `loss`."""
        self.apply(jt.grad(loss, list(self.parameters.values())), learning_rate)

    def apply(self, gradients: list[jt.Var], learning_rate: float) -> None:
        """Updates every parameter once by its gradient; gradients come in the order of `parameters`."""
        self.steps += 1
        beta1, beta2 = self.betas
        rate = learning_rate / (1 - beta1**self.steps)
        root = (1 - beta2**self.steps) ** 0.5
        flat = [g.reshape(-1) for g in gradients]
        if self.clip_norm is not None:
            norm = jt.sqrt(sum((g * g).sum() for g in flat))
            flat = [g * jt.minimum(self.clip_norm / (norm + 1e-6), 1.0) for g in flat]
        changed = []
        for (name, p), g in zip(self.parameters.items(), flat, strict=True):
            value = p.detach().reshape(-1)
            if self.weight_decay and self.decoupled:
                value = value * (1 - learning_rate * self.weight_decay)
            elif self.weight_decay:
                g = g + value * self.weight_decay
            mean, square = self.mean[name], self.square[name]
            mean.update(mean * beta1 + g * (1 - beta1))
            square.update(square * beta2 + g * g * (1 - beta2))
            deviation = jt.sqrt(jt.maximum(square, SMALLEST)) / root
            p.update((value - mean * rate / (deviation + self.eps)).reshape(p.shape))
            changed += [p, mean, square]
        jt.sync(changed)

    def state(self) -> dict[str, object]:
        """What another Adam needs to continue: arrays by name, and the number of steps."""
        arrays = {f"mean.{k}": v.numpy() for k, v in self.mean.items()}
        return {
            "steps": self.steps,
            **arrays,
            **{f"square.{k}": v.numpy() for k, v in self.square.items()},
        }

    def load_state(self, state: dict[str, object]) -> None:
        """Continues from what `state` returned."""
        self.steps = int(state["steps"])
        for name in self.parameters:
            self.mean[name].update(jt.array(np.asarray(state[f"mean.{name}"], np.float32)))
            self.square[name].update(jt.array(np.asarray(state[f"square.{name}"], np.float32)))
