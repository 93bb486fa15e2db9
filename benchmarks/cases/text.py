"""The text encoder: last hidden states, ours next to transformers' BertModel with the same weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cases import common


class Case(NamedTuple):
    """An encoder's shape and `size`: paragraphs at once x tokens, a third of them padding or less."""

    layers: int
    width: int
    size: tuple[int, int]


CASES = {
    "minilm-16x88": Case(6, 384, (16, 88)),
    "blip2-16x149": Case(12, 768, (16, 149)),
    "small-2x20": Case(2, 48, (2, 20)),
}


def config(case: Case) -> dict[str, int]:
    """Hugging Face's names."""
    return {
        "vocab_size": 1000,
        "hidden_size": case.width,
        "num_hidden_layers": case.layers,
        "num_attention_heads": 12,
        "intermediate_size": 4 * case.width,
        "max_position_embeddings": 512,
    }


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N, L) and lengths (N,)."""
    rng = np.random.default_rng(0)
    n, length = case.size
    return rng.integers(0, 1000, (n, length)), rng.integers(length * 2 // 3, length + 1, n)


def ours(name: str) -> common.Run:
    """One run of ours."""
    from safetensors.numpy import save_file

    from jfusion.runtime import jt
    from jfusion.text import bert

    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config(case)))
        save_file(weights(case), Path(folder, "model.safetensors"))
        network = bert.load(Path(folder))
    tokens, lengths = inputs(case)

    def run() -> dict[str, np.ndarray]:
        jt.sync_all(True)
        with jt.no_grad():
            return {"last_hidden_state": network(tokens, lengths).numpy()}

    return run


def reference(name: str, _folder: str) -> common.Run:
    """One run of transformers' model (any folder does as --reference)."""
    import torch
    from transformers import BertConfig, BertModel

    case = CASES[name]
    network = BertModel(BertConfig(**config(case)), add_pooling_layer=False).eval()
    state = {name: torch.from_numpy(value) for name, value in weights(case).items()}
    network.load_state_dict(state)
    tokens, lengths = (torch.from_numpy(x) for x in inputs(case))
    mask = (torch.arange(tokens.shape[1])[None] < lengths[:, None]).long()

    def run() -> dict[str, np.ndarray]:
        with torch.no_grad():
            out = network(input_ids=tokens, attention_mask=mask).last_hidden_state
        return {"last_hidden_state": out.numpy()}

    return run


def weights(case: Case) -> dict[str, np.ndarray]:
    """Random, by Hugging Face's names."""
    rng, h, c = np.random.default_rng(1), case.width, config(case)
    shapes = {
        "embeddings.word_embeddings": (c["vocab_size"], h),
        "embeddings.position_embeddings": (512, h),
        "embeddings.token_type_embeddings": (2, h),
        "embeddings.LayerNorm": (h,),
    }
    for i in range(case.layers):
        for x in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"encoder.layer.{i}.attention.{x}"] = (h, h)
        shapes[f"encoder.layer.{i}.attention.output.LayerNorm"] = (h,)
        shapes[f"encoder.layer.{i}.intermediate.dense"] = (4 * h, h)
        shapes[f"encoder.layer.{i}.output.dense"] = (h, 4 * h)
        shapes[f"encoder.layer.{i}.output.LayerNorm"] = (h,)
    state = {}
    for name, shape in shapes.items():
        scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
        state[f"{name}.weight"] = (rng.standard_normal(shape) * scale).astype(np.float32)
        if "embeddings" not in name.split(".")[-1]:
            state[f"{name}.bias"] = (rng.standard_normal(shape[:1]) * 0.1).astype(np.float32)
    return state
