"""What `jfusion parity` runs of each system: settings, batches, forward pass, losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jfusion.errors import UserError, did_you_mean
from jfusion.parity import draw
from jfusion.parity.reference.constants import EM_STEPS, SMALL

if TYPE_CHECKING:
    from jfusion.runtime import jt
    from jfusion.systems.base import Stage
    from jfusion.systems.network import NetworkSystem

Arrays = dict[str, np.ndarray]


class Case:
    """A system that is trained on pairs of gray images.

    settings: of the system. factors: by which drawn weights are multiplied, by the end of the authors'
    name, so that nothing saturates. size, count: of the batch that is drawn. one_size: the authors' network
    takes no other. multiple: of which the sides of its images must be. fuses: whether both sides
    fuse whole pairs. repository: the authors', on GitHub. apart: a pattern of the authors' names of the
    layers whose module here gives something else, because its kernel computes the next layer too, or because
    it is called in another order; they are not compared.
    """

    repository: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    factors: ClassVar[dict[str, float]] = {}
    size: ClassVar[tuple[int, int]] = (32, 40)
    count: ClassVar[int] = 2
    one_size: ClassVar[bool] = False
    multiple: ClassVar[int] = 1
    fuses: ClassVar[bool] = True
    apart: ClassVar[str] = ""

    def images(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The images a and b of a drawn batch, (N, 1, H, W)."""
        return draw.image("grad.ir", shape), draw.image("grad.vis", shape)

    def text(self, count: int) -> np.ndarray | None:
        """The features of a drawn batch's paragraphs, where the system reads them."""
        return None

    def batch(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        """What both sides get for a training step and a forward pass; a, b as `preprocess` gives them."""
        return {"a": a, "b": b}

    def pair(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        """What the authors' side gets to fuse one pair."""
        return self.batch(system, a, b, text)

    def forward(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> jt.Var:
        """One pass through the network."""
        return system(batch["a"], batch["b"])

    def extras(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> dict[str, jt.Var]:
        """More that is compared, by name: what is no module."""
        return {}

    def losses(
        self, system: NetworkSystem, batch: Mapping[str, jt.Var], stage: Stage
    ) -> dict[str, jt.Var]:
        """The losses of a stage, "total" first."""
        from jfusion.systems.base import Batch

        return system.losses(Batch(batch["a"], batch["b"], batch.get("text"), []), stage)


class FILM(Case):
    """With paragraphs of standard normal features, as in the golden fixtures."""

    repository = "Zhaozixiang1228/IF-FILM"

    def images(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        return draw.image("film.grad9.imageA", shape), draw.image("film.grad9.imageB", shape)

    def text(self, count: int) -> np.ndarray | None:
        features = draw.generator("film.grad9.text").standard_normal((count, 24, 768))
        return features.astype(np.float16).astype(np.float32)

    def batch(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        return {"a": a, "b": b, "text": text}

    def forward(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> jt.Var:
        return system(batch["a"], batch["b"], batch["text"])


class CDDFuse(Case):
    """Both phases."""

    repository = "Zhaozixiang1228/MMIF-CDDFuse"
    factors = {"theta_rho.bottleneckBlock.5.weight": 0.1, "DIDF_Decoder.output.2.weight": 0.2}


class SFDFuse(Case):
    """Both phases, without drop-path, which is random."""

    repository = "zxp771/SFDFuse"
    settings = {"drop_path": 0.0}
    factors = {"theta_rho.bottleneckBlock.4.weight": 0.1, "DIDF_Decoder_Phase.output.2.weight": 0.2}
    apart = r"(Base|Detail)FuseLayer\.norm1"  # called for the visible image first, or last


class DDFM(Case):
    """The network in a small configuration, and the EM step; nothing is fused."""

    repository = "Zhaozixiang1228/MMIF-DDFM"
    settings = {k: v for k, v in SMALL.items() if k not in ("class_cond", "use_checkpoint")}
    size = (32, 32)
    fuses = False
    apart = r".*\.in_layers\.0|out\.0"  # group normalization with SiLU in its kernel

    def batch(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        x = np.repeat(2 * b - 1, 3, 1)
        noise = draw.generator("parity.noise").standard_normal(x.shape).astype(np.float32)
        t = np.linspace(100, 900, len(x)).astype(np.int64)
        x = np.float32(0.7) * x + np.float32(0.7) * noise
        # one pair for the EM steps: the authors take one scale for a whole batch, we one for each pair
        a, b = a[:1], b[:1]
        estimates = {
            f"f{k}": 2 * draw.image(f"parity.estimate{k}", b.shape) - 1 for k in range(EM_STEPS)
        }
        return {"x": x, "noise": noise, "t": t, "i": 2 * a - 1, "v": 2 * b - 1, **estimates}

    def forward(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> jt.Var:
        return system.unet(batch["x"], batch["t"].numpy())

    def extras(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> dict[str, jt.Var]:
        from jfusion.systems.ddfm.em import Likelihood

        step = Likelihood(batch["i"], batch["v"], 0.5, 0.001)
        return {f"EM step {k + 1}": step(batch[f"f{k}"]) for k in range(EM_STEPS)}

    def losses(
        self, system: NetworkSystem, batch: Mapping[str, jt.Var], stage: Stage
    ) -> dict[str, jt.Var]:
        error = self.forward(system, batch) - batch["noise"]
        return {"total": (error * error).mean(3).mean()}


class LFDT(Case):
    """The published network of infrared and visible images, with given noise."""

    repository = "BOYang-pro/LFDT-Fusion"
    factors = {
        "model.ending.weight": 0.01,
        "model.ending.bias": 0.01,
        "fusion.ending.conv.weight": 0.1,
    }
    size, multiple = (64, 64), 8
    apart = r"LDM_Enc\.conv_fuse\.\d+\.1"  # batch normalization with the leaky ReLU in its kernel

    def batch(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        n, _, h, w = a.shape
        noise = draw.generator("parity.noise").standard_normal((n, 16, h // 4, w // 4))
        return {**self.pair(system, a, b, text), "noise": noise.astype(np.float32)}

    def pair(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        first, second = system.ordered(a, b)
        return {"first": first, "second": second}

    def forward(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> jt.Var:
        return system(batch["first"], batch["second"], batch["noise"]).fused

    def losses(
        self, system: NetworkSystem, batch: Mapping[str, jt.Var], stage: Stage
    ) -> dict[str, jt.Var]:
        return system.losses_of(batch["first"], batch["second"], batch["noise"])


class FCCF(Case):
    """The published network on one PET pair, three color channels in a step; nothing is fused."""

    repository = "DanceSkyCode/Diff-FCCF"
    settings = {"group": "pet", "dropout": 0.0}
    size, one_size = (256, 256), True  # that of the authors' positional embedding
    count = 1
    fuses = False
    apart = r".*\.conv[12]\.0"  # group normalization with SiLU and the convolution in its kernel

    def images(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        colors = (shape[0], 3, *shape[2:])
        images = draw.image("parity.s", shape), draw.image("parity.f", colors)
        # neutral chroma in the corner, as PET images have it: the regions refer to it, and must hold pixels
        images[1][:, 1:, :8, :8] = 128 / 255
        return tuple(np.round(x * 255).astype(np.float32) / np.float32(255) for x in images)

    def batch(
        self, system: NetworkSystem, a: np.ndarray, b: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        random = draw.generator("parity.noise")
        noise = random.standard_normal((3, len(a), 1, *a.shape[2:])).astype(np.float32)
        x = random.standard_normal((len(a), 4, *a.shape[2:])).astype(np.float32)
        t = random.randint(0, 2000, (3, len(a)))
        time = np.full(len(a), 1203)
        return {"s": 2 * a - 1, "f": 2 * b - 1, "noise": noise, "t": t, "x": x, "time": time}

    def forward(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> jt.Var:
        return system(batch["x"], batch["time"].numpy()).noise

    def extras(self, system: NetworkSystem, batch: Mapping[str, jt.Var]) -> dict[str, jt.Var]:
        return {"masks": system(batch["x"], batch["time"].numpy()).field}

    def losses(
        self, system: NetworkSystem, batch: Mapping[str, jt.Var], stage: Stage
    ) -> dict[str, jt.Var]:
        s, f, t = (batch[k].numpy() for k in ("s", "f", "t"))
        return system.losses_of(s, f, t, batch["noise"], "pet")


CASES: dict[str, Case] = {
    "film": FILM(),
    "cddfuse": CDDFuse(),
    "sfdfuse": SFDFuse(),
    "ddfm": DDFM(),
    "lfdt": LFDT(),
    "fccf": FCCF(),
}


def case_of(name: str) -> Case:
    """The case of a system. Raises UserError for one whose authors' code is not known here."""
    if name not in CASES:
        raise UserError(
            f"parity knows the authors' code of {', '.join(CASES)}, not of {name!r}"
            f"{did_you_mean(name, CASES)}"
        )
    return CASES[name]
