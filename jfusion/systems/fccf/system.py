"""Diff-FCCF: the system that the trainer, the tester and the command line use."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jfusion.checkpoint import NameMap
from jfusion.data import color
from jfusion.data.h5 import Pair
from jfusion.diffusion.noise import TorchNoise
from jfusion.diffusion.process import ModelPrediction, q_sample
from jfusion.diffusion.samplers import SAMPLERS, Callback
from jfusion.diffusion.schedule import Schedule, named_schedule, rounded
from jfusion.errors import UserError
from jfusion.ops.activation import absolute
from jfusion.ops.resize import pad_to_multiple
from jfusion.runtime import jt, nn
from jfusion.systems.base import Batch, ParameterGroup, Picture, Stage, System, cut
from jfusion.systems.fccf import losses as terms
from jfusion.systems.fccf.config import GROUPS, PUBLISHED, TRAINING, Config, Region, group_of
from jfusion.systems.fccf.network import Denoiser, Output
from jfusion.systems.fccf.policy import OFFICIAL as POLICY
from jfusion.systems.fccf.reinforce import Reinforcement
from jfusion.systems.fccf.warp import warp

MULTIPLIERS = (1, 2, 4, 8)
SEED = 0
PIXELS = 65536  # what sums are divided by, whatever the size (sic)


class Plane(NamedTuple):
    """One colour plane: s and f as they are, (N, 1, H, W) in [-1, 1], and as the network's conditions.

    For the chroma: inside `region` structure is added with `sign`; for the luma region and sign are 1
    and nothing is transferred.
    """

    number: int
    s: np.ndarray
    f: np.ndarray
    structure: np.ndarray
    function: np.ndarray
    region: np.ndarray
    sign: float


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
    for theirs, ours, inside in (
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
        names |= {f"{theirs}.{o}": f"{ours}.{u}" for o, u in inside.items()}
    policy = {f"policy.{o}": f"reinforcement.policy.{u}" for o, u in POLICY.templates.items()}
    memory = {"reinforcement_memory": "reinforcement.memory"}
    return {**{o: f"network.{u}" for o, u in names.items()}, **policy, **memory}


class FCCF(System):
    """The network, its diffusion process, the loss of three planes and the staged inference."""

    NAME = "fccf"
    Config = Config
    OFFICIAL = NameMap(_official())
    DEAD: ClassVar[tuple[str, ...]] = ("positional_embedding",)  # computed
    OPTIONAL: ClassVar[tuple[str, ...]] = ("policy.", "reinforcement_")  # with --reinforce
    PRESET = "cddfuse"
    STEPWISE = True
    WARM: ClassVar[dict[str, Any]] = {"width": 32, "timesteps": 3, "group": "pet"}

    def __init__(self, config: Config):
        super().__init__(config)
        self.network = Denoiser(config.width, MULTIPLIERS, config.blocks, config.dropout)
        if config.reinforce:
            self.reinforcement = Reinforcement(config.policy_size)

    def execute(self, x: jt.Var, t: np.ndarray) -> Output:
        """X (N, 4, H, W): two conditions, noisy structure, noisy plane; t (N,)."""
        return self.network(x, t)

    def schedule(self) -> Schedule:
        """All T steps; the cosine's in single precision, which the published numbers depend on."""
        made = named_schedule(self.config.noise_schedule, self.config.timesteps)
        return rounded(made) if self.config.noise_schedule == "cosine" else made

    # ---- groups

    def of(self, dataset: str) -> FCCF:
        """The same network for the group of this data set; asked for one group, for that one."""
        group = group_of(dataset)
        if self.config.group in GROUPS or group is None:
            return self
        twin = copy.copy(self)
        twin.config = dataclasses.replace(self.config, group=group)
        return twin

    @property
    def group(self) -> str:
        """The one group of this system; UserError when that is not decided."""
        if self.config.group not in GROUPS:
            raise UserError(
                f"fccf: neither --group nor the data set's name says which of {', '.join(GROUPS)} it is; "
                "name one with --group"
            )
        return self.config.group

    def turns(self, datasets: list[str]) -> list[int]:
        """The data set of each group asked for; "auto": every one that names a group."""
        found = [group_of(name) for name in datasets]
        if self.config.group == "auto":
            return [i for i, group in enumerate(found) if group]
        missing = [group for group in self.config.groups if group not in found]
        if missing:
            raise UserError(
                f"fccf: no training set for the group {missing[0]} among {', '.join(datasets)}"
            )
        return [found.index(group) for group in self.config.groups]

    # ---- what goes in

    def planes(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The structure (1, H, W) and the function's Y, Cr, Cb (3, H, W), of 8 bits, in [0, 1].

        In the group ct the structure is the CT image, b, and the function is the MRI, a.
        """
        sides = [(pair.a, pair.rgb_a), (pair.b, pair.rgb_b)]
        if self.group == "ct":
            sides.reverse()
        s, f = (_rgb(*side) for side in sides)
        both = color.gray_by_pillow(s)[None], np.moveaxis(color.ycrcb(f), 2, 0)
        return tuple(np.asarray(x, np.float32) / np.float32(255) for x in both)

    def plane(
        self, number: int, s: np.ndarray, f: np.ndarray, rules: tuple[Region, Region]
    ) -> Plane:
        """One plane with its region, which is that of the whole batch."""
        if number == 0:
            return Plane(0, s, f, s, f, np.ones_like(f), 1.0)
        rule = rules[number - 1]
        region = terms.region_of(f, rule)
        if region.sum() < 2 and not self.config.region_guard:
            raise UserError(f"fccf: a region of plane {number} has no two pixels: --region-guard")
        moved = terms.transferred(s, f, region)
        return Plane(number, s, f, moved, region * f, region, rule.sign)

    # ---- training

    def stages(self) -> list[Stage]:
        return [Stage("training", self.config.epochs)]

    def parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        c = self.config

        def adam(name: str, module: nn.Module, rate: float, clip: float | None) -> ParameterGroup:
            return ParameterGroup(
                name,
                {f"{name}.{k}": p for k, p in module.state_dict().items()},
                lambda epoch: rate * c.decay ** (epoch // c.decay_every),
                weight_decay=c.weight_decay,
                decoupled=True,
                clip_norm=clip,
            )

        groups = [adam("network", self.network, c.learning_rate, None)]
        if c.reinforce:
            groups.append(adam("policy", self.reinforcement.policy, c.policy_rate, 1.0))
        return groups

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """The sum over the planes, each with times and noise of its own."""
        s, f = (2 * x.numpy() - 1 for x in (batch.a, batch.b))
        shape = (3, len(s))
        t = (jt.rand(shape).numpy() * self.config.timesteps).astype(int)
        return self.losses_of(s, f, t, jt.randn((*shape, 1, *s.shape[2:])))

    def losses_of(
        self, s: np.ndarray, f: np.ndarray, t: np.ndarray, noise: jt.Var
    ) -> dict[str, jt.Var]:
        """S (N, 1, H, W), f (N, 3, H, W) in [-1, 1]; t (3, N) and noise (3, N, 1, H, W) by plane."""
        rules = TRAINING[self.group]
        planes = [self.plane(c, s, f[:, c : c + 1], rules) for c in range(3)]
        n, steps = len(s), self.schedule()
        noisy = [self.noisy(p, noise[i], t[i], steps) for i, p in enumerate(planes)]
        inputs = [
            jt.concat([jt.array(p.structure), jt.array(p.function), *xs], 1)
            for p, xs in zip(planes, noisy, strict=True)
        ]
        found = self.network(jt.concat(inputs, 0), t.reshape(-1))
        total: dict[str, jt.Var] = {}
        outputs = [Output(*(x[i * n : (i + 1) * n] for x in found)) for i in range(3)]
        for i, (p, output) in enumerate(zip(planes, outputs, strict=True)):
            for name, value in self.plane_losses(
                p, output, output.field, noise[i], noisy[i]
            ).items():
                total[name] = total[name] + value if name in total else value
        c = self.config
        weights = {"noise": c.noise_weight, "quality": c.quality_weight}
        whole = sum(weights.get(name, 1.0) * value for name, value in total.items())
        if c.reinforce:
            learned = self._reinforced(planes, outputs)
            return {"total": whole + learned["policy"], **total, **learned}
        return {"total": whole, **total}

    def _reinforced(self, planes: list[Plane], outputs: list[Output]) -> dict[str, jt.Var]:
        """The policy's loss on the fused estimates; it moves the policy alone."""
        with jt.no_grad():
            fused = [
                self.estimate(p, o, warp(jt.array(p.f), o.field)).numpy()
                for p, o in zip(planes, outputs, strict=True)
            ]
        luma, *chroma = ((np.clip(x, -1, 1) + 1) / 2 for x in fused)
        return self.reinforcement.losses(luma, np.concatenate(chroma, 1))

    def estimate(self, plane: Plane, output: Output, warped: jt.Var) -> jt.Var:
        """The fused plane that the masks of one time step give, (N, 1, H, W)."""
        if plane.number:
            return self.chroma_estimate(plane, output.mask2, warped)
        return output.mask1 * jt.array(plane.s) + (1 - output.mask1) * jt.array(plane.f)

    def noisy(
        self, plane: Plane, noise: jt.Var, t: np.ndarray, steps: Schedule
    ) -> tuple[jt.Var, jt.Var]:
        """Structure and plane at the times t (N,), with the same noise in both."""
        first, second = (
            q_sample(jt.array(x), t, noise, steps) for x in (plane.structure, plane.function)
        )
        return first, second

    def plane_losses(
        self,
        plane: Plane,
        output: Output,
        field: jt.Var,
        noise: jt.Var,
        noisy: tuple[jt.Var, jt.Var],
    ) -> dict[str, jt.Var]:
        """noise, mutual_information ("folding"), correlation_ratio ("smooth"), fusion, quality."""
        warped = warp(jt.array(plane.f), field)
        # the luma of all groups but pet is compared before the warp (sic)
        compared = jt.array(plane.f) if plane.number == 0 and self.group != "pet" else warped
        shared = -terms.mutual_information(plane.s, compared.numpy())
        parts = {
            "noise": self.config.loss_scale * _sum(absolute(noise - output.noise)) / PIXELS,
            "mutual_information": jt.array(np.float32(shared)),
            "correlation_ratio": terms.correlation_ratio(plane.s, compared),
        }
        if plane.region.sum() < 2:
            return parts
        fusion, judged = (
            self._luma(plane, output, noisy)
            if plane.number == 0
            else self._chroma(plane, output, noisy, warped)
        )
        return {**parts, "fusion": fusion, "quality": sum(terms.quality(*judged).values())}

    def _luma(
        self, plane: Plane, output: Output, noisy: tuple[jt.Var, jt.Var]
    ) -> tuple[jt.Var, tuple[jt.Var, jt.Var, jt.Var]]:
        m, (x1, x2) = output.mask1, noisy
        mixed = m * x1 + (1 - m) * x2
        s, f = jt.array(plane.s), jt.array(plane.f)
        fusion = (_sum(absolute(mixed - x1)) + _sum(absolute(mixed - x2))) / PIXELS
        return fusion, (f, s, self.estimate(plane, output, f))

    def _chroma(
        self, plane: Plane, output: Output, noisy: tuple[jt.Var, jt.Var], warped: jt.Var
    ) -> tuple[jt.Var, tuple[jt.Var, jt.Var, jt.Var]]:
        m, (x1, x2), region = output.mask2, noisy, jt.array(plane.region)
        added = x2 + plane.sign * m * x1
        fusion = _sum(absolute(region * (added - m * x1))) / PIXELS
        fused = self.chroma_estimate(plane, m, warped)
        structure = m * jt.array(plane.structure)
        return fusion, (structure, structure, region * fused)

    def chroma_estimate(self, plane: Plane, mask: jt.Var, warped: jt.Var) -> jt.Var:
        """The fused plane: inside the region with the plane's statistics, the warped plane outside."""
        region, function = jt.array(plane.region), jt.array(plane.function)
        e = function + plane.sign * mask * jt.array(plane.structure)
        e = jt.clamp(terms.restated(e, function, e[:, :, 2:3, 2:3].detach()), -1, 1)
        return region * e + (1 - region) * warped

    # ---- inference

    def fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None = None,
        *,
        seed: int | None = None,
        callback: Callable[[int, jt.Var, jt.Var], None] | None = None,
    ) -> jt.Var:
        """A (N, 1, H, W), b (N, 3, H, W) of `planes` -> Y, Cr, Cb in [0, 1], (N, 3, H, W).

        The regions are those of each image (in the published code: of the batch, which must be one).
        """
        n, _, h, w = a.shape
        s, f = (2 * pad_to_multiple(x, 8, "symmetric").numpy() - 1 for x in (a, b))
        draws = [TorchNoise((SEED if seed is None else seed) + i) for i in range(n)]
        size = (1, 1, *s.shape[2:])
        # plane by plane: the starts of the structural, the functional and the fused chain
        starts = [[[g.normal(size) for _ in range(3)] for _ in range(3)] for g in draws]
        start = np.concatenate(
            [np.concatenate(starts[i][c], 1) for c in range(3) for i in range(n)]
        )
        planes = [self._planes_of(c, s, f) for c in range(3)]
        fused = self.sample(planes, jt.array(start), callback)
        stacked = jt.concat([fused[c * n : (c + 1) * n] for c in range(3)], 1)
        found = (jt.clamp(stacked[:, :, :h, :w], -1, 1) + 1) / 2
        if self.config.reinforce:
            luma, chroma = found[:, :1], found[:, 1:]
            settled = self.reinforcement.settled(luma.numpy(), chroma.numpy())
            return jt.concat([luma, jt.array(settled)], 1)
        return found

    def _planes_of(self, number: int, s: np.ndarray, f: np.ndarray) -> Plane:
        """A plane of several images, each with its own region."""
        f = f[:, number : number + 1]
        each = [
            self.plane(number, s[i : i + 1], f[i : i + 1], self._rules()) for i in range(len(s))
        ]
        arrays = (np.concatenate([p[k] for p in each]) for k in range(1, 6))
        return Plane(number, *arrays, each[0].sign)

    def _rules(self) -> tuple[Region, Region]:
        return (TRAINING if self.config.region == "as_training" else PUBLISHED)[self.group]

    def sample(
        self,
        planes: list[Plane],
        start: jt.Var,
        callback: Callback | None = None,
        noise: Any = None,
    ) -> jt.Var:
        """Hierarchical condition enhancement: the fused planes (P N, 1, H, W) of P planes.

        start (P N, 3, H, W): noise for structure, plane and fused plane. noise(k): for --add-noise.
        """
        steps = self.schedule()
        short = steps.respaced(self.config.steps) if self.config.steps else steps
        if noise is None:
            own = TorchNoise(SEED)
            shape = (start.shape[0], 1, *start.shape[2:])
            noise = (
                (lambda k: jt.array(own.normal(shape))) if self.config.add_noise else lambda k: 0.0
            )

        def model(x: jt.Var, k: int) -> ModelPrediction:
            return self.step_back(
                planes, self.corrected(planes, x) if k < len(short) - 1 else x, k, short
            )

        found = SAMPLERS[self.config.sampler](model, start, short, noise=noise, callback=callback)
        return self.corrected(planes, found)[:, 2:3]

    def step_back(self, planes: list[Plane], x: jt.Var, k: int, steps: Schedule) -> ModelPrediction:
        """What the network says at step k of x (P N, 3, H, W); all three chains share its noise."""
        found, n = self.predict(planes, x, int(steps.timesteps[k])), len(planes[0].s)
        x1, x2, fused = x.chunk(3, 1)
        mixed = []
        for i, plane in enumerate(planes):
            at = slice(i * n, (i + 1) * n)
            if plane.number == 0:
                mixed.append(found.mask1[at] * x1[at] + (1 - found.mask1[at]) * x2[at])
            else:
                mixed.append(x2[at] + plane.sign * found.mask2[at] * x1[at])
        x = jt.concat([x1, x2, (jt.concat(mixed, 0) + fused) / 2], 1)
        clean, mean = posterior(x, found.noise, x, k, steps)
        return ModelPrediction(
            clean, mean, jt.float32(float(steps.posterior_log_variance_clipped[k])), x
        )

    def predict(self, planes: list[Plane], x: jt.Var, t: int) -> Output:
        """The network's outputs for the first two chains of x at time t."""
        inputs = jt.concat([*self.conditions(planes, t), x[:, :2]], 1)
        return self.network(inputs, np.full(x.shape[0], t))

    def conditions(self, planes: list[Plane], t: int) -> tuple[jt.Var, jt.Var]:
        """Two (P N, 1, H, W): early the plane twice, then structure and plane, late structure twice."""
        s, f = (
            jt.array(np.concatenate([getattr(p, x) for p in planes]))
            for x in ("structure", "function")
        )
        third = self.config.timesteps // 3
        if t > self.config.timesteps - third:
            return f, f
        return (s, f) if t >= third else (s, s)

    def corrected(self, planes: list[Plane], x: jt.Var) -> jt.Var:
        """X (P N, 3, H, W) with the fused chroma put back to the plane outside its region."""
        n, fused = len(planes[0].s), []
        for i, plane in enumerate(planes):
            own = x[i * n : (i + 1) * n, 2:3]
            fused.append(own if plane.number == 0 else self._put_back(plane, own))
        return jt.concat([x[:, :2], jt.concat(fused, 0)], 1)

    def _put_back(self, plane: Plane, x: jt.Var) -> jt.Var:
        region, f = jt.array(plane.region), jt.array(plane.f)
        if self.group == "pet" and plane.number == 1:
            return jt.clamp((1 - region) * f + region * (0.8 - x), -1, 1)
        inside = terms.restated(region * x, region * f, f[:, :, 2:3, 2:3])
        # an image without a region stays the plane
        return (1 - region) * f + region * jt.clamp(inside, -1, 1)

    # ---- registration

    def field(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What the network would move b by: two images (H, W, 3) uint8 -> (H, W, 2) pixels, x first.

        Of the luma, at the last time step with the clean pair as its noisy state (ours; in training the
        field is that of a random step). Values are in (0, 1).
        """
        s, f = color.gray_by_pillow(a), color.ycrcb(b)[..., 0].astype(np.float32)
        x = jt.array(np.stack([s, f, s, f])[None] / np.float32(127.5) - 1)
        with jt.no_grad():
            found = self.network(pad_to_multiple(x, 8, "symmetric"), np.zeros(1, int)).field.numpy()
        return found[0, : a.shape[0], : a.shape[1]]

    # ---- pictures

    def preview(self, batch: Batch) -> jt.Var:
        """The luma that the masks of the last step back would give, (N, 1, H, W): one run, not T."""
        s, f = batch.a, batch.b[:, :1]
        x = 2 * jt.concat([s, f, s, f], 1) - 1
        mask = self.network(x, np.zeros(s.shape[0], int)).mask1
        return mask * s + (1 - mask) * f

    def picture(self, fused: np.ndarray, pair: Pair) -> Picture:
        """Y, Cr, Cb (3, h, w) -> RGB; values are cut to 8 bits, as the authors' writer does."""
        rgb = color.from_ycrcb(np.moveaxis(cut(np.clip(fused, 0, 1)), 0, 2))
        return Picture(color.gray(rgb).astype(np.uint8), rgb)

    def frame(self, x: jt.Var, size: tuple[int, int]) -> np.ndarray:
        """The luma of the fused chain, (N, h, w)."""
        luma = x[: x.shape[0] // 3, 2, : size[0], : size[1]].numpy()
        return cut((np.clip(luma, -1, 1) + 1) / 2)


def posterior(
    x: jt.Var, noise: jt.Var, beside: jt.Var, k: int, steps: Schedule
) -> tuple[jt.Var, jt.Var]:
    """The clean image that x and its noise give, cut to [-1, 1], and the mean of the step back.

    The mean is that of the clean image and `beside`, which is x. (The published sampling carries a field
    besides, from 0, whose mean takes the functional chain here; nothing reads it, and `sample` has none.)
    """
    of_x, of_noise, k1, k2 = (
        float(np.float32(v[k]))
        for v in (
            steps.sqrt_recip_alphas_cumprod,
            steps.sqrt_recipm1_alphas_cumprod,
            steps.posterior_mean_coef1,
            steps.posterior_mean_coef2,
        )
    )
    clean = jt.clamp(of_x * x - of_noise * noise, -1, 1)
    return clean, k1 * clean + k2 * beside


def _sum(x: jt.Var) -> jt.Var:
    """Rows first: float32 sums of many values lose digits."""
    return x.sum(3).sum(2).sum()


def _rgb(gray: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8."""
    if rgb is not None:
        return rgb
    return np.repeat(np.round(gray[0] * 255).astype(np.uint8)[..., None], 3, 2)
