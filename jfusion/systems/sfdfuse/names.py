"""The authors' names of SFDFuse's parameters, and ours."""

from __future__ import annotations

from jfusion.layers.decomposition import OFFICIAL_BASE

_NORMS = {f"norm{i}.body.{{p}}": f"norm{i}.{{p}}" for i in (1, 2)}
_GATE = {
    "ffn.project_in.weight": "feed_forward.expand.weight",
    "ffn.dwconv.weight": "feed_forward.depthwise.weight",
    "ffn.dwconv_5.weight": "feed_forward.depthwise5.weight",
    "ffn.dwconv_dilated2_1.weight": "feed_forward.dilated.weight",
    "ffn.project_out.weight": "feed_forward.project.weight",
}


def _attention(name: str) -> dict[str, str]:
    return {
        f"{name}.temperature": "attention.temperature",
        f"{name}.qkv.weight": "attention.qkv.weight",
        f"{name}.qkv_dwconv.weight": "attention.depthwise.weight",
        f"{name}.project_out.weight": "attention.project.weight",
    }


# A block of the encoder or the decoder: TransformerBlock and ConvFormerBlock, of both uploads.
_BLOCK = {
    **_NORMS,
    **_attention("attn"),
    **_GATE,
    **{o.replace("ffn.", "mlp."): u.replace("feed_forward.", "gate.") for o, u in _GATE.items()},
    "layer_scale_{k}": "scale{k}",
    "token_mixer.pwconv1.weight": "mixer.expand.weight",
    "token_mixer.act1.scale": "mixer.star_scale",
    "token_mixer.act1.bias": "mixer.star_bias",
    "token_mixer.dwconv.weight": "mixer.depthwise.weight",
    "token_mixer.pwconv2.weight": "mixer.project.weight",
    "mlp.fc1.weight": "mlp.expand.weight",
    "mlp.norm.body.{p}": "mlp.norm.{p}",
    "mlp.fc2.weight": "mlp.project.weight",
}
_DECONV = {
    "conv1_1.conv.{p}": "central_{p}",
    "conv1_2.conv.{p}": "across_{p}",
    "conv1_3.conv.{p}": "down_{p}",
    "conv1_4.conv.{p}": "angular_{p}",
    "conv1_5.{p}": "plain_{p}",
}
_BOTTLENECK = "net.{n}.theta_{t}.bottleneckBlock"
_DETAIL = {
    "net.{n}.shffleconv.{p}": "nodes.{n}.shuffle.{p}",
    f"{_BOTTLENECK}.0.weight": "nodes.{n}.{t}.expand.weight",
    f"{_BOTTLENECK}.4.weight": "nodes.{n}.{t}.project.weight",
    **{f"{_BOTTLENECK}.2.{o}": f"nodes.{{n}}.{{t}}.middle.{u}" for o, u in _DECONV.items()},
}
_INTERACTION = {**_NORMS, **_attention("attention"), **_GATE}
_ENCODER = {
    "patch_embed.proj.weight": "patch.weight",
    **{f"encoder_level1.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in _BLOCK.items()},
    **{f"baseFeature.{o}": f"base.{u}" for o, u in OFFICIAL_BASE.items()},
    "FreFeature.wt_filter": "wavelet.analysis",
    "FreFeature.iwt_filter": "wavelet.synthesis",
    **{f"detailFeature.{o}": f"detail.{u}" for o, u in _DETAIL.items()},
    "upsample1.0.{p}": "upsample.{p}",
    **{f"init_fusion_b.{o}": f"meet_base.{u}" for o, u in _INTERACTION.items()},
    **{f"init_fusion_d.{o}": f"meet_detail.{u}" for o, u in _INTERACTION.items()},
}
_DECODER = {
    "reduce_channel.weight": "reduce.weight",
    **{f"encoder_level2.{{n}}.{o}": f"blocks.{{n}}.{u}" for o, u in _BLOCK.items()},
    "output.0.weight": "narrow.weight",
    "output.2.weight": "to_image.weight",
    "fusion1.sa.sa.{p}": "merge.spatial.{p}",
    "fusion1.ca.ca.0.{p}": "merge.squeeze.{p}",
    "fusion1.ca.ca.2.{p}": "merge.excite.{p}",
    "fusion1.pa.pa2.{p}": "merge.pixel.{p}",
    "fusion1.conv.{p}": "merge.project.{p}",
}
_NETWORKS = {
    ("DIDF_Encoder.", "encoder."): _ENCODER,
    ("DIDF_Decoder_Phase.", "decoder."): _DECODER,
    ("BaseFuseLayer.", "base_fusion."): _INTERACTION,
    ("DetailFuseLayer.", "detail_fusion."): _INTERACTION,
}
# Templates of the authors' names -> ours; their file holds four networks.
OFFICIAL = {o + k: u + v for (o, u), names in _NETWORKS.items() for k, v in names.items()}
