"""Diff-FCCF as a system: its network, losses and recipe, and its staged inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

import numpy as np

from jfusion.checkpoint import WeightCard, WeightMap
from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.diffusion.process import q_sample
from jfusion.errors import UserError
from jfusion.ops.resize import pad_to_multiple
from jfusion.runtime import jt, nn
from jfusion.systems.base import Batch, FusedImage, OptimizerConfig, Stage, floor_to_uint8
from jfusion.systems.fccf import registration
from jfusion.systems.fccf.channels import ColorChannel, channel_of_each_image, color_channel
from jfusion.systems.fccf.config import (
    GROUPS,
    INFERENCE_REGIONS,
    TRAINING_REGIONS,
    Config,
    group_in,
)
from jfusion.systems.fccf.losses import channel_losses, fused_estimate
from jfusion.systems.fccf.network import Denoiser, Output
from jfusion.systems.fccf.policy import OFFICIAL as POLICY
from jfusion.systems.fccf.reinforce import Reinforcement
from jfusion.systems.fccf.sampling import StagedSampler, initial_noise, noise_schedule
from jfusion.systems.fccf.warp import warp
from jfusion.systems.network import SamplingSystem

MULTIPLIERS = (1, 2, 4, 8)


def _official() -> dict[str, str]:
    res = {
        "conv1.0.{p}": "norm1.{p}",
        "conv1.2.{p}": "conv1.{p}",
        "time_emb.1.{p}": "time.{p}",
        "conv2.0.{p}": "norm2.{p}",
        "conv2.3.{p}": "conv2.{p}",
        "shortcut.{p}": "skip.{p}",
        "op.{p}": "conv.{p}",
    }
    gate = {"fc1.{p}": "squeeze.{p}", "fc2.{p}": "excite.{p}", "conv.{p}": "pixels.{p}"}
    head = {"0.{p}": "norm.{p}", "2.{p}": "conv.{p}"}
    graph = {
        **{f"ln{i}.{{p}}": f"norm{i}.{{p}}" for i in (1, 2, 3)},
        "mhga.linears.{i}.weight": "attention.{i}.weight",
        "ffn.linear1.{p}": "expand.{p}",
        "ffn.linear2.{p}": "project.{p}",
        "chebgc.Theta.{i}": "chebyshev.{i}.weight",
    }
    names = {"time_embed.{i}.{p}": "time.{i}.{p}", "inBlock.{p}": "first.{p}"}
    for theirs, ours, parts in (
        ("downBlock.{i}.0", "down.{i}", res),
        ("middleBlock.{i}.0", "middle.{i}", res),
        ("upBlock.{i}.0", "noise_up.{i}", res),
        ("fusionBlock.{i}.0", "mask_up.{i}", res),
        ("attention_block.{i}", "noise_gates.{i}", gate),
        ("attention_block_1.{i}", "mask_gates.{i}", gate),
        ("graformer", "graph", graph),
        ("outBlock", "noise_head", head),
        ("fusion_outBlock1", "mask_heads.0", head),
        ("fusion_outBlock2", "mask_heads.1", head),
    ):
        names |= {f"{theirs}.{o}": f"{ours}.{u}" for o, u in parts.items()}
    policy = {f"policy.{o}": f"reinforcement.policy.{u}" for o, u in POLICY.templates.items()}
    memory = {"reinforcement_memory": "reinforcement.memory"}
    return {**{o: f"network.{u}" for o, u in names.items()}, **policy, **memory}


class FCCF(SamplingSystem):
    """The network, its diffusion process, the loss of three color channels and the staged inference."""

    Config = Config
    EIGHT_BITS = True
    CHANNELS = (1, 3)
    WEIGHTS = WeightMap(
        _official(),
        ignored=("positional_embedding",),  # computed here
        optional=("policy.", "reinforcement_"),  # of --reinforce
        card=WeightCard(
            where="none are published: the authors' repository, DanceSkyCode/Diff-FCCF on GitHub, announces "
            "them for after the paper's acceptance; train with: jfusion train fccf",
            license="MIT by the README, Apache-2.0 by the license file",
            paper="A Novel End-to-End Unsupervised Multi-Task Diffusion Network for Hierarchical Medical "
            "Multi-Modality Image Full-Color Channel Fusion, 2025",
        ),
    )

    def __init__(self, config: Config):
        super().__init__(config)
        self.network = Denoiser(config.width, MULTIPLIERS, config.blocks, config.dropout)
        if config.reinforce:
            self.reinforcement = Reinforcement(config.policy_size)

    def execute(self, x: jt.Var, t: np.ndarray) -> Output:
        """Runs the network on x (N, 4, H, W) in [-1, 1] at the times t (N,), whole numbers below T.

        The channels of x are s and f as conditions, and both with noise.
        """
        return self.network(x, t)

    def group_of(self, dataset: str = "") -> str:
        """The group of a data set's pairs: the setting `group`; for "auto" the one that its name contains.

        Raises UserError when neither says it.
        """
        group = group_in(dataset) if self.config.group == "auto" else self.config.group
        if group is None:
            name = f" ({dataset})" if dataset else ""
            raise UserError(
                f"fccf: neither --group nor the data set's name{name} says which of {', '.join(GROUPS)} "
                "it is; name one with --group"
            )
        return group

    def preprocess(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The structure (1, H, W) and the function's Y, Cr, Cb (3, H, W), of 8 bits, in [0, 1].

        In the group ct the structure is the CT image, b, and the function is the MRI, a.
        """
        sides = [(pair.a, pair.rgb_a), (pair.b, pair.rgb_b)]
        if self.group_of(pair.dataset) == "ct":
            sides.reverse()
        s, f = (_rgb(*side) for side in sides)
        both = color.gray_by_pillow(s)[None], np.moveaxis(color.ycrcb(f), 2, 0)
        return tuple(np.asarray(x, np.float32) / np.float32(255) for x in both)

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """Y, Cr, Cb (3, h, w) in [0, 1] -> RGB; values are rounded down, as the authors' writer does."""
        rgb = color.from_ycrcb(np.moveaxis(floor_to_uint8(np.clip(fused, 0, 1)), 0, 2))
        return FusedImage(color.gray(rgb).astype(np.uint8), rgb)

    @classmethod
    def infer_settings(cls, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The width, from the first convolution; the policy and its side, from its last layer if any."""
        ours = {cls.WEIGHTS.ours(name): value for name, value in state.items()}
        settings: dict[str, Any] = {}
        first, last = (
            np.shape(ours.get(name))
            for name in ("network.first.weight", "reinforcement.policy.head.2.weight")
        )
        if len(first) == 4:
            settings["width"] = int(first[0])
        if len(last) == 2:
            settings |= {"reinforce": True, "policy_size": isqrt(int(last[0]))}
        return settings

    # ---- training

    def stages(self) -> list[Stage]:
        """One stage."""
        return [Stage("training", self.config.epochs)]

    def optimizers(self, stage: Stage) -> list[OptimizerConfig]:
        """AdamW for the network; with `reinforce` another for the policy. Both rates fall alike."""
        c = self.config

        def adamw(name: str, module: nn.Module, rate: float, clip: float | None) -> OptimizerConfig:
            return OptimizerConfig(
                name,
                {f"{name}.{k}": p for k, p in module.state_dict().items()},
                lambda epoch: rate * c.decay ** (epoch // c.decay_every),
                weight_decay=c.weight_decay,
                decoupled=True,
                clip_norm=clip,
            )

        optimizers = [adamw("network", self.network, c.learning_rate, None)]
        if c.reinforce:
            optimizers.append(adamw("policy", self.reinforcement.policy, c.policy_rate, 1.0))
        return optimizers

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """The sum over the color channels, each with random times and noise of its own.

        Total, noise, mutual_information, correlation_ratio, fusion and quality; with `reinforce` also
        policy, which the total contains, and reward. The regions are those of the batch's group.
        """
        s, f = (2 * x.numpy() - 1 for x in (batch.a, batch.b))
        shape = (3, len(s))
        t = (jt.rand(shape).numpy() * self.config.train_timesteps).astype(int)
        noise = jt.randn((*shape, 1, *s.shape[2:]))
        return self.losses_of(s, f, t, noise, self.group_of(batch.dataset))

    def losses_of(
        self, s: np.ndarray, f: np.ndarray, t: np.ndarray, noise: jt.Var, group: str
    ) -> dict[str, jt.Var]:
        """The losses of given times t (3, N) and noise (3, N, 1, H, W), by channel.

        s (N, 1, H, W), f (N, 3, H, W) in [-1, 1].
        """
        c, schedule = self.config, noise_schedule(self.config)
        regions = TRAINING_REGIONS[group]
        channels = [color_channel(k, s, f, regions, c.region_guard) for k in range(3)]
        noisy = [
            tuple(
                q_sample(jt.array(x), t[k], noise[k], schedule)
                for x in (channel.s_condition, channel.f_condition)
            )
            for k, channel in enumerate(channels)
        ]
        outputs = self._outputs(channels, noisy, t)
        sums: dict[str, jt.Var] = {}
        for k, (channel, output) in enumerate(zip(channels, outputs, strict=True)):
            terms = channel_losses(
                channel, output, output.field, noise[k], noisy[k], c.loss_scale, group == "pet"
            )
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
        weights = {"noise": c.noise_weight, "quality": c.quality_weight}
        total = sum(weights.get(name, 1.0) * value for name, value in sums.items())
        if c.reinforce:
            learned = self._policy_losses(channels, outputs)
            return {"total": total + learned["policy"], **sums, **learned}
        return {"total": total, **sums}

    def _outputs(
        self, channels: list[ColorChannel], noisy: list[tuple[jt.Var, jt.Var]], t: np.ndarray
    ) -> list[Output]:
        """The network's output for each channel, from one call for all of them."""
        inputs = [
            jt.concat([jt.array(channel.s_condition), jt.array(channel.f_condition), *pair], 1)
            for channel, pair in zip(channels, noisy, strict=True)
        ]
        output, n = self.network(jt.concat(inputs, 0), t.reshape(-1)), len(channels[0].s)
        return [Output(*(x[k * n : (k + 1) * n] for x in output)) for k in range(len(channels))]

    def _policy_losses(
        self, channels: list[ColorChannel], outputs: list[Output]
    ) -> dict[str, jt.Var]:
        """The policy's loss on the fused estimates; only the policy gets a gradient from it."""
        with jt.no_grad():
            fused = [
                fused_estimate(channel, output, warp(jt.array(channel.f), output.field)).numpy()
                for channel, output in zip(channels, outputs, strict=True)
            ]
        luma, *chroma = ((np.clip(x, -1, 1) + 1) / 2 for x in fused)
        return self.reinforcement.losses(luma, np.concatenate(chroma, 1))

    def preview(self, batch: Batch) -> jt.Var:
        """The luma that the masks of the last step back give, (N, 1, H, W): one network call, not T."""
        s, f = batch.a, batch.b[:, :1]
        x = 2 * jt.concat([s, f, s, f], 1) - 1
        mask = self.network(x, np.zeros(s.shape[0], int)).mask1
        return mask * s + (1 - mask) * f

    # ---- inference

    def _fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None,
        seed: int | None,
        callback: Callable[[int, jt.Var, jt.Var], None] | None,
    ) -> jt.Var:
        """Fuses a (N, 1, H, W), b (N, 3, H, W) of `preprocess` to Y, Cr, Cb in [0, 1], (N, 3, H, W).

        Each image has its own regions (in the released code they are those of the batch, which must be one
        image). Images whose sides are not multiples of 8 are padded.
        """
        n, _, h, w = a.shape
        group, c = self.group_of(), self.config
        s, f = (2 * pad_to_multiple(x, 8, "symmetric").numpy() - 1 for x in (a, b))
        regions = (INFERENCE_REGIONS if c.region == "released" else TRAINING_REGIONS)[group]
        channels = [channel_of_each_image(k, s, f, regions, c.region_guard) for k in range(3)]
        start = jt.array(initial_noise(n, s.shape[2:], seed))
        fused = StagedSampler(self.network, c, group).sample(channels, start, callback)
        stacked = jt.concat([fused[k * n : (k + 1) * n] for k in range(3)], 1)
        image = (jt.clamp(stacked[:, :, :h, :w], -1, 1) + 1) / 2
        if not c.reinforce:
            return image
        luma, chroma = image[:, :1], image[:, 1:]
        changed = self.reinforcement.apply_policy(luma.numpy(), chroma.numpy())
        return jt.concat([luma, jt.array(changed)], 1)

    def preview_step(self, x: jt.Var, size: tuple[int, int]) -> np.ndarray:
        """The luma of the fused chain as gray images, (N, h, w) uint8; x (3 N, 3, H, W)."""
        luma = x[: x.shape[0] // 3, 2, : size[0], : size[1]].numpy()
        return floor_to_uint8((np.clip(luma, -1, 1) + 1) / 2)

    def displacement_field(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The displacement of b (H, W, 3) uint8 that the network predicts, for `jfusion align`.

        Returns (H, W, 2) float32 in pixels, x first; see registration.py.
        """
        return registration.displacement_field(self.network, a, b)


def _rgb(gray: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
    """The image in color if it has any, otherwise gray (1, H, W) in [0, 1] repeated: (H, W, 3) uint8."""
    if rgb is not None:
        return rgb
    return np.repeat(np.round(gray[0] * 255).astype(np.uint8)[..., None], 3, 2)
