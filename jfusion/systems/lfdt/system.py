"""LFDT-Fusion as a system: its networks, the sampler between them, the losses and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jfusion.checkpoint import WeightCard, WeightMap
from jfusion.data.h5 import Pair
from jfusion.diffusion import samplers, schedule
from jfusion.diffusion.noise import TorchNoise
from jfusion.diffusion.process import ModelPrediction, q_sample
from jfusion.diffusion.samplers import Callback
from jfusion.diffusion.schedule import Schedule
from jfusion.errors import UserError
from jfusion.layers.losses import guided_fusion_losses
from jfusion.runtime import jt, mpi, nn
from jfusion.systems import stretch
from jfusion.systems.base import Batch, FusedImage, OptimizerConfig, Stage, floor_to_uint8
from jfusion.systems.lfdt import color
from jfusion.systems.lfdt.autoencoder import LATENT, Decoder, Encoder
from jfusion.systems.lfdt.config import Config
from jfusion.systems.lfdt.denoiser import Denoiser
from jfusion.systems.lfdt.fusion_head import FusionHead
from jfusion.systems.lfdt.names import official
from jfusion.systems.network import NetworkSystem

# The authors' name of a sampler -> ours, and its noise levels; "DDIM" has a schedule of its own.
SAMPLERS = {
    "ddp-solver": (samplers.dpm_solver_pp_2s, schedule.get_sigmas_linspace),
    "ddp-solver++": (samplers.dpm_solver_pp_2m, schedule.get_sigmas_linspace),
    "Deis": (samplers.deis, schedule.get_sigmas_linspace),
    "Unipc": (samplers.unipc, schedule.get_sigmas_linspace),
    "Heun": (samplers.heun, schedule.get_sigmas_interpolated),
    "Euler": (samplers.euler, schedule.get_sigmas_interpolated),
    "LMS": (samplers.lms, schedule.get_sigmas_interpolated),
    "PNDM": (samplers.pndm, schedule.get_sigmas_pndm),
}
IN_SIGMA = ("Heun", "Euler", "LMS")  # their x is the latent plus sigma times the noise
DEIS_RESCALE = {"released": "batch", "image": "image", "paper": "off"}
SEED = 0


class Output(NamedTuple):
    """The fused image and what leads to it; latents are (N, 16, H / 4, W / 4).

    latent: of both images. noise: what was added to it. noised: the sum. eps: the noise that the last
    call of the denoiser predicts. features: its four maps. denoised: the latent after sampling.
    fused_latent (N, 8, H / 4, W / 4). fused (N, 1, H, W) in (-1, 1), H and W multiples of 8.
    """

    latent: jt.Var
    noise: jt.Var
    noised: jt.Var
    eps: jt.Var
    features: list[jt.Var]
    denoised: jt.Var
    fused_latent: jt.Var
    fused: jt.Var


class LFDT(NetworkSystem):
    """The encoder, the denoiser, the fusion head and the decoder, trained together."""

    Config = Config
    EIGHT_BITS = True
    WEIGHTS = WeightMap(
        official(levels=3),
        ignored=("fusion_loss.",),  # four constant Sobel kernels
        card=WeightCard(
            where="the authors' repository, BOYang-pro/LFDT-Fusion on GitHub (one .pth for each task)",
            license="none stated",
            paper="LFDT-Fusion: A Latent Feature-guided Diffusion Transformer Model for General Image "
            "Fusion, Information Fusion 2024",
        ),
    )

    def __init__(self, config: Config):
        super().__init__(config)
        if len(config.multipliers) != 3:  # the decoder's names depend on the number of its levels
            published = type(self).WEIGHTS
            templates = official(len(config.multipliers))
            self.WEIGHTS = WeightMap(templates, published.ignored, card=published.card)
        widths = (config.width, *(m * config.width for m in config.multipliers))
        self.encoder, self.decoder = Encoder(widths), Decoder(widths)
        self.denoiser = Denoiser(config.blocks, config.ffn_expansion)
        self.head = FusionHead()
        for module in (*self.denoiser.modules(), *self.head.modules()):
            if isinstance(module, nn.Conv | nn.Linear):
                module.weight.assign(jt.randn(module.weight.shape) * 0.02)
                if module.bias is not None:
                    module.bias.assign(jt.zeros(module.bias.shape))

    @classmethod
    def infer_settings(cls, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The widths of the autoencoder's levels, and of the transformer's feed-forward (MEF's is narrower)."""
        settings: dict[str, Any] = {}
        names = ("model.latent.0.ffn.project_in.weight", "denoiser.latent.0.expand.weight")
        hidden = next((state[name] for name in names if name in state), None)
        if hidden is not None:
            out, width = hidden.shape[:2]
            settings["ffn_factor"] = 2.66 if out == int(2.66 * width) else out / width
        for first, level in (
            ("LDM_Enc.init_conv1.weight", "LDM_Enc.encoder1.{}.3.weight"),
            ("encoder.source1.first.weight", "encoder.source1.levels.{}.3.conv.weight"),
        ):
            if first in state:
                width, widths = state[first].shape[0], []
                while level.format(len(widths)) in state:
                    widths.append(state[level.format(len(widths))].shape[0])
                settings["width"] = width
                settings["channel_mult"] = ",".join(str(w // width) for w in widths)
        return settings

    # ---- the network

    def execute(
        self,
        a: jt.Var,
        b: jt.Var,
        noise: jt.Var | None = None,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> Output:
        """Fuses a, b (N, 1, H, W) in [-1, 1], in the encoders' order.

        noise: of the latent's shape (default: drawn). start (N,): the step whose noise the latent gets
        with DDIM (default: drawn).
        """
        latent, skips = self.encoder(a, b)
        noise = mpi.randn(latent.shape) if noise is None else noise
        noised, eps, features, denoised = self.denoise(latent, noise, start, callback)
        fused_latent = self.head(features, denoised)
        fused = self.decoder(fused_latent, skips)
        return Output(latent, noise, noised, eps, features, denoised, fused_latent, fused)

    def denoise(
        self,
        latent: jt.Var,
        noise: jt.Var,
        start: np.ndarray | None = None,
        callback: Callback | None = None,
    ) -> tuple[jt.Var, jt.Var, list[jt.Var], jt.Var]:
        """Adds the noise to the latent (N, 16, h, w) and samples; arguments as in `execute`.

        Returns the noised latent, the noise and the features that the last call of the denoiser gives,
        and the denoised latent. The sampling begins one step before that of the noise (sic).
        """
        c, last = self.config, _LastCall()
        if c.sampler == "DDIM":
            return self._ddim(latent, noise, start, callback, last)
        sample, get_sigmas = SAMPLERS[c.sampler]
        sigmas = get_sigmas(self.noise_schedule(), c.inference_steps)
        alpha_t, sigma_t = sigmas.alpha_t[c.noise_index], sigmas.sigma_t[c.noise_index]
        options: dict[str, Any] = {}
        if c.sampler == "Deis":
            options = {"rescale": DEIS_RESCALE[c.deis_rescale]}
        elif c.sampler in IN_SIGMA:
            alpha_t, sigma_t = 1.0, sigmas.sigmas[c.noise_index]
            options = {"keep_scaled": c.sigma_state == "released"}
        x = float(alpha_t) * latent + float(sigma_t) * noise
        model = self._model(sigmas.timesteps, sigmas.alpha_t, sigmas.sigma_t, last)
        denoised = sample(model, x, sigmas, callback=callback, **options)
        return x, last.eps, last.features, denoised

    def _model(
        self, timesteps: np.ndarray, alpha_t: np.ndarray, sigma_t: np.ndarray, last: _LastCall
    ) -> samplers.Model:
        """The denoiser as the samplers call it; `last` keeps what the last call gave."""

        def model(x: jt.Var, i: int) -> ModelPrediction:
            last.eps, last.features = self.denoiser(x, timesteps[i : i + 1])
            return ModelPrediction((x - float(sigma_t[i]) * last.eps) / float(alpha_t[i]))

        return model

    def _ddim(
        self,
        latent: jt.Var,
        noise: jt.Var,
        start: np.ndarray | None,
        callback: Callback | None,
        last: _LastCall,
    ) -> tuple[jt.Var, jt.Var, list[jt.Var], jt.Var]:
        full, steps = self.noise_schedule(), self.config.inference_steps
        if start is None:
            start = (jt.rand(latent.shape[0]).numpy() * len(full)).astype(int)
        x = q_sample(latent, start, noise, full)
        timesteps = np.arange(steps) * (len(full) // steps)
        few = full.respaced_to(timesteps)
        alpha_t, sigma_t = np.sqrt(few.alphas_cumprod), np.sqrt(1 - few.alphas_cumprod)
        model = self._model(timesteps, alpha_t, sigma_t, last)
        denoised = samplers.ddim(model, x, few, callback=callback)
        return x, last.eps, last.features, denoised

    def noise_schedule(self) -> Schedule:
        """The linear schedule in float32, as the authors'; Heun has other ends."""
        low, high = (8.5e-4, 0.012) if self.config.sampler == "Heun" else (1e-4, 0.02)
        count = self.config.train_timesteps
        betas = np.linspace(low, high, count, dtype=np.float32).astype(float)
        return Schedule(betas, np.arange(count))

    # ---- fusion

    @property
    def smallest_side(self) -> int:
        """The least height and width in pixels of an image; see the configuration."""
        return self.config.smallest_side

    def _fuse(
        self,
        a: jt.Var,
        b: jt.Var,
        text: jt.Var | None,
        seed: int | None,
        callback: Callback | None,
    ) -> jt.Var:
        """The network's output, clamped and from [-1, 1] to [0, 1]; `postprocess` writes it as the authors do."""
        c, (h, w) = self.config, a.shape[2:]
        size = [-(-n // c.multiple) * 2 for n in (h, w)]
        shape = (a.shape[0], 2 * LATENT, *size)
        noise = jt.array(TorchNoise(SEED if seed is None else seed).normal(shape))
        start = np.full(a.shape[0], c.train_timesteps - 1)
        fused = self(*self.ordered(a, b), noise, start, callback).fused
        return (jt.clamp(fused[:, :, :h, :w], -1, 1) + 1) / 2

    def ordered(self, a: jt.Var, b: jt.Var) -> list[jt.Var]:
        """a, b in [0, 1] -> the inputs of the first and the second encoder, in [-1, 1]."""
        return [2 * x - 1 for x in ((a, b) if self.config.order == "ab" else (b, a))]

    def preprocess(self, pair: Pair, training: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The lumas (1, H, W) in [0, 1], not rounded.

        In tests, a's red channel where a is not in color by its nature (all tasks but MEF and MFF), as
        in the authors' test scripts.
        """
        a, b = color.luma(pair.a, pair.rgb_a), color.luma(pair.b, pair.rgb_b)
        if pair.rgb_a is not None and not training and self.config.kind not in ("MEF", "MFF"):
            a = (pair.rgb_a[None, ..., 0] / 255).astype(np.float32)
        return a, b

    def postprocess(self, fused: np.ndarray, pair: Pair) -> FusedImage:
        """The image as the authors write it; theirs of MEF and MFF are the gray ones."""
        y, crcb = 2 * fused - 1, color.pair_chroma(pair)
        gray = self.to_uint8(y)[0]
        if crcb is None:
            return FusedImage(gray)
        rgb = color.with_chroma(y, crcb)
        return FusedImage(gray, self.to_uint8(np.moveaxis(rgb, 0, 2)))

    def to_uint8(self, x: np.ndarray) -> np.ndarray:
        """[-1, 1] -> uint8: above the darkest value of the whole image, rounded down; or the full range."""
        x = np.clip(x, -1, 1)
        if self.config.output_range == "full":
            return np.round((x + 1) / 2 * 255).astype(np.uint8)
        darkest, _ = stretch.ends(x.min(), x.max())
        return floor_to_uint8(np.maximum(x - darkest, 0) / 2)

    # ---- training

    def stages(self) -> list[Stage]:
        """One stage."""
        return [Stage("training", self.config.epochs)]

    def optimizers(self, stage: Stage) -> list[OptimizerConfig]:
        """One AdamW for all parameters, with the authors' cosine schedule."""
        c = self.config

        def rate(step: int, per_epoch: int) -> float:
            # the authors leave out the first step of the schedule, and for batches of one the second too
            skipped = 2 if c.batch_size == 1 else 1
            return restarting_cosine(c.learning_rate, max(0, step - skipped), per_epoch)

        return [
            OptimizerConfig(
                "networks",
                self.trainable(),
                None,
                weight_decay=c.weight_decay,
                decoupled=True,
                step_rate=rate,
            )
        ]

    def losses(self, batch: Batch, stage: Stage) -> dict[str, jt.Var]:
        """Structure, gradient and intensity of the fused image, and the noise of the last denoiser call."""
        return self.losses_of(*self.ordered(batch.a, batch.b))

    def losses_of(
        self,
        a: jt.Var,
        b: jt.Var,
        noise: jt.Var | None = None,
        start: np.ndarray | None = None,
    ) -> dict[str, jt.Var]:
        """The losses for a, b (N, 1, H, W) in [-1, 1], in the encoders' order; the rest as in `execute`.

        Raises UserError unless the sides are multiples of 2^levels.
        """
        multiple = self.config.multiple
        if any(n % multiple for n in a.shape[2:]):
            raise UserError(
                f"lfdt is trained on crops whose sides are multiples of {multiple}, not "
                f"{a.shape[2]}x{a.shape[3]}: --crop 256 256"
            )
        output = self(a, b, noise, start)
        parts = self.image_losses(a, b, output.fused)
        target = output.noise if self.config.dif_target == "noise" else output.noised
        parts["dif"] = ((output.eps - target) ** 2).mean(3).mean()
        return {"total": sum(parts.values()), **parts}

    def image_losses(self, a: jt.Var, b: jt.Var, fused: jt.Var) -> dict[str, jt.Var]:
        """The weighted losses of the image: ssim, gradient, intensity. All are (N, 1, H, W) in [-1, 1]."""
        c = self.config
        target = jt.maximum(a, b) if c.target == "MAX" else (a + b) / 2
        weight = 20 if c.kind in ("MEF", "MFF") else 40
        return guided_fusion_losses(a, b, fused, target, (10, weight, weight), mpi.mean)


class _LastCall:
    """What the last call of the denoiser gave."""

    eps: jt.Var
    features: list[jt.Var]


def restarting_cosine(start: float, steps: int, per_epoch: int) -> float:
    """The learning rate after so many steps of a run of 60 epochs: constant, then three falls.

    Periods of 15, 15, 15 and 16 epochs that restart at weights 1, 1, 0.5 and 0.5 of `start`.
    """
    ends = [end * per_epoch for end in (15, 30, 45, 61)]
    lows, weights = (start, 1e-5, 1e-5, 1e-5), (1, 1, 0.5, 0.5)
    i = next((i for i, end in enumerate(ends) if steps <= end), len(ends) - 1)
    begin = ends[i - 1] if i else 0
    cosine = np.cos(np.pi * (steps - begin) / (ends[i] - begin))
    return float(lows[i] + weights[i] * 0.5 * (start - lows[i]) * (1 + cosine))
