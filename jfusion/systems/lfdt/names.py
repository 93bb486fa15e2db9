"""The authors' parameter names, as templates for a `WeightMap`."""

from __future__ import annotations

RES_BLOCK = {
    "block1.proj.weight": "conv1.weight",
    "block2.proj.weight": "conv2.weight",
    "res_conv.weight": "skip.weight",
}
LINEAR_ATTENTION = {
    "fn.norm.g": "norm.scale",
    "fn.fn.to_qkv.weight": "qkv.weight",
    "fn.fn.to_out.0.{p}": "project.{p}",
    "fn.fn.to_out.1.g": "norm_out.scale",
}
TRANSFORMER_BLOCK = {
    "norm{n}.body.{p}": "norm{n}.{p}",
    "attn.temperature": "attention.temperature",
    "attn.qkv.weight": "attention.qkv.weight",
    "attn.qkv_dwconv.weight": "attention.depthwise.weight",
    "attn.project_out.weight": "attention.project.weight",
    "ffn.project_in.weight": "expand.weight",
    "ffn.project_out.weight": "project.weight",
    "MLP_modulation.1.{p}": "time.{p}",
}
HEAD_BLOCK = {
    "norm{n}.body.{p}": "norm{n}.{p}",
    "attn.temperature{s}": "attention.temperature{s}",
    "attn.qkv_dwconv{s}.weight": "attention.depthwise{s}.weight",
    "attn.qkv{s}.weight": "attention.qkv{s}.weight",
    "attn.project_out{s}.weight": "attention.project{s}.weight",
    "ffn.project_in.weight": "expand.weight",
    "ffn.project_out.weight": "project.weight",
}
SKFF = {
    "conv_du.0.weight": "squeeze.weight",
    "conv_du.1.weight": "slope",
    "fcs.{f}.weight": "excite.{f}.weight",
}


def official(levels: int) -> dict[str, str]:
    """The templates for an autoencoder of so many levels, the authors' names first."""
    return {**_encoder(), **_decoder(levels), **_denoiser(), **_head()}


def _inside(theirs: str, ours: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{theirs}.{o}": f"{ours}.{u}" for o, u in names.items()}


def _encoder() -> dict[str, str]:
    names = {}
    for s in (1, 2):
        level = f"LDM_Enc.encoder{s}.{{i}}", f"encoder.source{s}.levels.{{i}}"
        names |= {
            f"LDM_Enc.init_conv{s}.weight": f"encoder.source{s}.first.weight",
            **_inside(f"{level[0]}.{{b}}", f"{level[1]}.{{b}}", {**RES_BLOCK, **LINEAR_ATTENTION}),
            f"{level[0]}.3.{{p}}": f"{level[1]}.3.conv.{{p}}",
            **_inside(f"LDM_Enc.latent_conv{s}", f"encoder.source{s}.latent", RES_BLOCK),
        }
    return {
        **names,
        "LDM_Enc.conv_fuse.{k}.0.{p}": "encoder.skips.{k}.conv.{p}",
        "LDM_Enc.conv_fuse.{k}.1.{p}": "encoder.skips.{k}.norm.{p}",
    }


def _decoder(levels: int) -> dict[str, str]:
    level = "LDM_Dec.decoder.{j}", "decoder.levels.{j}"
    last = levels - 1  # its convolution has no resize before it
    return {
        **_inside(f"{level[0]}.{{b}}", f"{level[1]}.{{b}}", {**RES_BLOCK, **LINEAR_ATTENTION}),
        f"LDM_Dec.decoder.{last}.3.{{p}}": f"decoder.levels.{last}.3.conv.{{p}}",
        f"{level[0]}.3.1.{{p}}": f"{level[1]}.3.conv.{{p}}",
        **_inside("LDM_Dec.post_latent_conv", "decoder.first", RES_BLOCK),
        "LDM_Dec.final_conv.{p}": "decoder.last.{p}",
    }


def _denoiser() -> dict[str, str]:
    names = {
        "model.patch_embed.proj.weight": "denoiser.patch.weight",
        "model.downs.{i}.{p}": "denoiser.downs.{i}.{p}",
        "model.ups.{i}.0.weight": "denoiser.ups.{i}.weight",
        "model.ending.{p}": "denoiser.ending.{p}",
    }
    for stage in ("encoders.{i}", "decoders.{i}", "latent"):
        names |= _inside(f"model.{stage}.{{b}}", f"denoiser.{stage}.{{b}}", TRANSFORMER_BLOCK)
    return names


def _head() -> dict[str, str]:
    return {
        **_inside("fusion.decoders.{i}.{b}", "head.blocks.{i}.{b}", HEAD_BLOCK),
        **_inside("fusion.aggregate.{i}.0", "head.merges.{i}", SKFF),
        **_inside("fusion.last_fuse", "head.merge_latent", SKFF),
        "fusion.ending.conv.{p}": "head.ending.{p}",
    }
