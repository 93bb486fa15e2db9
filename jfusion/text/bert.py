"""A BERT encoder, and the text branch of a BLIP-2 Q-Former, from Hugging Face's files.

Devlin et al. 2019; Li et al. 2023 (BLIP-2). The Q-Former runs without query tokens, so its
cross-attention and query layers are not used, and what remains is a BERT. PyTorch is not needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jfusion.checkpoint.safetensors_file import Tensors
from jfusion.errors import UserError
from jfusion.ops.matmul import linear
from jfusion.runtime import jt, nn
from jfusion.text.config import Config
from jfusion.text.ops import add_norm, bias_gelu, self_attention


class Bert(nn.Module):
    """Tokens -> hidden states of the last layer. Frozen: for inference only."""

    def __init__(self, config: Config, weights: dict[str, np.ndarray]):
        super().__init__()
        self.config = config
        # these stay in NumPy: a sequence needs a few of their rows
        self.word_embeddings = weights["word_embeddings"]
        self.position_embeddings = weights["position_embeddings"]
        self.norm = [jt.array(weights[f"norm.{p}"]) for p in ("weight", "bias")]
        self.layers = [
            _Layer(config, {k: weights[f"{i}.{k}"] for k in _LAYER})
            for i in range(config.num_hidden_layers)
        ]

    def execute(self, tokens: np.ndarray, lengths: np.ndarray) -> jt.Var:
        """The hidden states (N, L, hidden_size) of the last layer.

        tokens (N, L) int, of which the first `lengths` (N,) of each sequence are attended to. The states of padding tokens are computed as transformers does. Raises UserError when a token
        is beyond the vocabulary, or L beyond the positions.
        """
        config = self.config
        if tokens.shape[1] > config.max_position_embeddings:
            raise UserError(
                f"{tokens.shape[1]} tokens, and the encoder has {config.max_position_embeddings} positions"
            )
        if tokens.max(initial=0) >= config.vocab_size:
            raise UserError(
                f"token {tokens.max()} is beyond the encoder's vocabulary of {config.vocab_size}; the "
                "tokenizer belongs to another encoder"
            )
        words = jt.array(self.word_embeddings[tokens])
        positions = jt.array(self.position_embeddings[: tokens.shape[1]]).broadcast(words.shape)
        zero = jt.zeros(config.hidden_size)
        x = add_norm(words, zero, positions, *self.norm, config.layer_norm_eps)
        attended_tokens = jt.array(lengths.astype(np.int32))
        for layer in self.layers:
            x = layer(x, attended_tokens)
        return x


# Our name of a layer's tensor -> Hugging Face's, {a} the name of the innermost attention.
_LAYER = {
    **{
        f"{x}.{p}": f"attention.{{a}}.{x}.{p}"
        for x in ("query", "key", "value")
        for p in ("weight", "bias")
    },
    **{
        f"{ours}.{p}": f"{theirs}.{p}"
        for ours, theirs in {
            "attention_output": "attention.output.dense",
            "attention_output_norm": "attention.output.LayerNorm",
            "intermediate": "intermediate.dense",
            "output": "output.dense",
            "output_norm": "output.LayerNorm",
        }.items()
        for p in ("weight", "bias")
    },
}


class _Layer(nn.Module):
    def __init__(self, config: Config, weights: dict[str, np.ndarray]):
        super().__init__()
        self.heads, self.eps = config.num_attention_heads, config.layer_norm_eps
        for p in ("weight", "bias"):
            parts = [weights.pop(f"{x}.{p}") for x in ("query", "key", "value")]
            setattr(self, f"qkv_{p}", jt.array(np.concatenate(parts)))
        for name, value in weights.items():
            setattr(self, name.replace(".", "_"), jt.array(value))

    def execute(self, x: jt.Var, lengths: jt.Var) -> jt.Var:
        """The next states, like x (N, L, hidden_size); lengths (N,) int32 are the tokens attended to."""
        context = self_attention(linear(x, self.qkv_weight, self.qkv_bias), lengths, self.heads)
        out = linear(context, self.attention_output_weight)
        norm = (self.attention_output_norm_weight, self.attention_output_norm_bias)
        x = add_norm(out, self.attention_output_bias, x, *norm, self.eps)
        intermediate = bias_gelu(linear(x, self.intermediate_weight), self.intermediate_bias)
        out = linear(intermediate, self.output_weight)
        norm = (self.output_norm_weight, self.output_norm_bias)
        return add_norm(out, self.output_bias, x, *norm, self.eps)


def load(folder: Path) -> Bert:
    """The encoder in a folder: config.json, and model.safetensors whole or in shards.

    Only the tensors of the text encoder are read, strictly: one UserError lists every name that is
    missing, or every layer that the configuration does not have.
    """
    config, tensors = Config.read(folder), Tensors(folder)
    names = _names(config, set(tensors.names))
    missing = sorted(n for n in names.values() if n not in tensors.names)
    if missing:
        raise UserError(
            f"{folder}: the encoder's weights lack {', '.join(missing[:6])}{_more(missing)}"
        )
    extra = sorted(n for n in tensors.names if _unknown_layer(n, config))
    if extra:
        raise UserError(
            f"{folder}: config.json has {config.num_hidden_layers} layers, but the weights also hold "
            f"{', '.join(extra[:3])}{_more(extra, 3)}"
        )
    weights = {ours: tensors.read(theirs) for ours, theirs in names.items()}
    if "token_type_embeddings" in names:  # every token is of type 0
        weights["position_embeddings"] = (
            weights["position_embeddings"] + weights.pop("token_type_embeddings")[0]
        )
    _check_shapes(folder, config, weights, names)
    return Bert(config, weights)


def _names(config: Config, in_file: set[str]) -> dict[str, str]:
    """Our name of each tensor -> its name in the file."""
    qformer = any(n.startswith("qformer.") for n in in_file)
    if qformer:
        embeddings, norm = "embeddings", "qformer.layernorm"
        layer, inner = "qformer.encoder.layer", "attention"
    else:
        prefix = "bert." if any(n.startswith("bert.") for n in in_file) else ""
        embeddings, norm = f"{prefix}embeddings", f"{prefix}embeddings.LayerNorm"
        layer, inner = f"{prefix}encoder.layer", "self"
    tables = ["word_embeddings", "position_embeddings"]
    if not qformer:
        tables.append("token_type_embeddings")
    names = {table: f"{embeddings}.{table}.weight" for table in tables}
    names |= {f"norm.{p}": f"{norm}.{p}" for p in ("weight", "bias")}
    for i in range(config.num_hidden_layers):
        names |= {f"{i}.{k}": f"{layer}.{i}.{v.format(a=inner)}" for k, v in _LAYER.items()}
    if f"{norm}.gamma" in in_file:  # as the first BERT checkpoints were written
        names = {ours: _first_spelling(theirs) for ours, theirs in names.items()}
    return names


def _first_spelling(name: str) -> str:
    """LayerNorm.weight -> LayerNorm.gamma, LayerNorm.bias -> LayerNorm.beta."""
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        if name.endswith(f"LayerNorm.{new}"):
            return name.removesuffix(new) + old
    return name


def _unknown_layer(name: str, config: Config) -> bool:
    """Whether a tensor of the text encoder is of a layer that the configuration does not have."""
    before, separator, after = name.partition("encoder.layer.")
    number = after.split(".")[0]
    return (
        bool(separator)
        and before in ("", "bert.", "qformer.")
        and number.isdigit()
        and int(number) >= config.num_hidden_layers
    )


def _check_shapes(
    folder: Path, config: Config, weights: dict[str, np.ndarray], names: dict[str, str]
) -> None:
    h, intermediate = config.hidden_size, config.intermediate_size
    special = {
        "word_embeddings": (config.vocab_size, h),
        "position_embeddings": (config.max_position_embeddings, h),
        "intermediate.weight": (intermediate, h),
        "intermediate.bias": (intermediate,),
        "output.weight": (h, intermediate),
    }
    wrong = []
    for ours, value in weights.items():
        key = ours.split(".", 1)[-1] if ours[0].isdigit() else ours
        matrix = key.endswith(".weight") and "norm" not in key
        expected = special.get(key, (h, h) if matrix else (h,))
        if value.shape != expected:
            wrong.append(f"{names[ours]} is {value.shape} instead of {expected}")
    if wrong:
        raise UserError(
            f"{folder}: weights do not fit config.json: {'; '.join(wrong[:4])}{_more(wrong, 4)}"
        )


def _more(items: list[str], shown: int = 6) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
