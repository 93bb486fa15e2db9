"""The shape of a BERT encoder, as Hugging Face's config.json states it; this needs no Jittor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jfusion.errors import UserError
from jfusion.files import read_text


@dataclass(frozen=True)
class Config:
    """The shape of an encoder, in Hugging Face's names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    layer_norm_eps: float

    @classmethod
    def read(cls, folder: Path) -> Config:
        """The configuration in the folder's config.json, of a BERT or of a BLIP-2; raises UserError."""
        path = folder / "config.json"
        try:
            values = json.loads(read_text(path, "the encoder's configuration"))
            values = values.get("qformer_config", values)
            model, activation = values.get("model_type", "bert"), values.get("hidden_act", "gelu")
            position = values.get("position_embedding_type") or "absolute"
            supported = model in ("bert", "blip_2_qformer")
            if not supported or activation != "gelu" or position != "absolute":
                raise UserError(
                    f"{path} is of a {model} with {activation} and {position} positions; jfusion reads "
                    "BERT and BLIP-2 encoders with exact GELU and absolute positions"
                )
            config = cls(**{k: type(d)(values.get(k, d)) for k, d in _DEFAULTS.items()})
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{path} is not an encoder's configuration: {error}") from error
        config.check(path)
        return config

    def check(self, path: Path) -> None:
        """Raises UserError for sizes that no encoder has: zero, absurdly large, or not divided by heads."""
        for name, most in _LARGEST.items():
            if not 1 <= getattr(self, name) <= most:
                raise UserError(
                    f"{path}: {name} must be from 1 to {most}, not {getattr(self, name)}"
                )
        if self.hidden_size % self.num_attention_heads or not 0 < self.layer_norm_eps < 1:
            raise UserError(
                f"{path}: hidden_size {self.hidden_size} must be a multiple of num_attention_heads "
                f"{self.num_attention_heads}, and layer_norm_eps be between 0 and 1"
            )


_LARGEST = {
    "vocab_size": 1 << 20,
    "hidden_size": 1 << 14,
    "num_hidden_layers": 200,
    "num_attention_heads": 1 << 10,
    "intermediate_size": 1 << 17,
    "max_position_embeddings": 1 << 17,
}
# transformers' defaults, which a config.json may leave out, for a BERT and for a Q-Former.
_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
