"""Writes tests/golden/text/*: tiny random encoders and what transformers' PyTorch models give for them.

Run where PyTorch and transformers are installed (neither PyTorch nor this script is needed to use or
test jfusion):

    python tools/make_text_fixtures.py

`<name>/config.json` and `model*.safetensors` are as transformers saves them; `<name>/expected.npz` holds
token numbers, the attention mask, and `last_hidden_state`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2TextModelWithProjection,
)

OUT = Path(__file__).parent.parent / "tests/golden/text"
BERT = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 50,
    "max_position_embeddings": 20,
}


def main() -> None:
    """A BERT, one without the pooler in shards, a BERT under `bert.`, and a Q-Former's text branch."""
    torch.manual_seed(0)
    save("bert", randomize(BertModel(BertConfig(**BERT))))
    save("bert_sharded", randomize(BertModel(BertConfig(**BERT, layer_norm_eps=1e-3))), "40KB")
    masked = randomize(BertForMaskedLM(BertConfig(**BERT)))
    save("bert_masked_lm", masked, network=masked.bert)
    model, shard, network = blip2()
    save("blip2", model, shard, network)


def blip2() -> tuple[torch.nn.Module, str, torch.nn.Module]:
    """A whole tiny BLIP-2 for retrieval, and the text model that reads the same checkpoint."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "intermediate_size": 16, "image_size": 28, "patch_size": 14},
        qformer_config={**BERT, "encoder_hidden_size": 16, "use_qformer_text_input": True},
        text_config={"model_type": "opt", **small, "ffn_dim": 16, "vocab_size": 8},
        image_text_hidden_size=8,
        num_query_tokens=4,
    )
    whole = randomize(Blip2ForImageTextRetrieval(config))
    text = Blip2TextModelWithProjection(config)
    missing = text.load_state_dict(whole.state_dict(), strict=False).missing_keys
    assert all("query_tokens" in m or "text_projection" in m for m in missing), missing
    return whole, "80KB", text.eval()


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that every part of the network shows in the result."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (1.0 if name.endswith("LayerNorm.weight") else 0.0))
    return model.eval()


def save(
    name: str,
    model: torch.nn.Module,
    shard: str = "5GB",
    network: torch.nn.Module | None = None,
) -> None:
    """The checkpoint as transformers writes it, and the last hidden states of three sequences."""
    folder = OUT / name
    model.save_pretrained(folder, max_shard_size=shard)
    kept = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    tokens = torch.randint(0, BERT["vocab_size"], (3, 13))
    lengths = torch.tensor([13, 7, 1])
    mask = (torch.arange(13)[None] < lengths[:, None]).long()
    with torch.no_grad():
        out = (network or model)(input_ids=tokens, attention_mask=mask).last_hidden_state
    np.savez_compressed(
        folder / "expected.npz", tokens=tokens, mask=mask, last_hidden_state=out.numpy()
    )
    print(name, tuple(out.shape), float(out.abs().mean()))


if __name__ == "__main__":
    main()
