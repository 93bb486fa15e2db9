"""The texts of the page, in English and Chinese.

Gradio shows what does not change in the browser's language; what is made for a request, in the language
that the request asks for. Messages of jfusion itself are English, as on the command line.
"""

from __future__ import annotations

from typing import Any

TEXTS = {
    # key: (English, Chinese)
    "title": ("jfusion: image fusion", "jfusion：图像融合"),
    "intro": (
        "Fuses two images into one, on this machine. Nothing is sent anywhere.",
        "在本机上把两幅图像融合成一幅，数据不会发送到任何地方。",
    ),
    "fuse": ("Fuse", "融合"),
    "image_a": (
        "Image A (infrared, MRI, over-exposed, near)",
        "图像 A（红外、MRI、过曝、近焦）",
    ),
    "image_b": (
        "Image B (visible, PET, under-exposed, far)",
        "图像 B（可见光、PET、欠曝、远焦）",
    ),
    "paste": (
        "Drop files here, choose them, or paste an image (Ctrl+V).",
        "拖入文件、点击选择，或粘贴图像（Ctrl+V）。",
    ),
    "examples": ("Examples", "示例"),
    "task": ("Task", "任务"),
    "method": ("Method", "方法"),
    "auto_task": ("guess it from the images", "由图像判断"),
    "auto": ("the best for the task", "该任务的最佳方法"),
    "text": ("Description of the scene", "场景描述"),
    "text_hint": (
        "For example: a street at night, two people. Empty: a paragraph that suits the task.",
        "例如（英文）：a street at night, two people。留空则使用适合该任务的段落。",
    ),
    "more": ("More settings", "更多设置"),
    "align": ("Undo a shift between A and B", "校正 A 与 B 之间的平移"),
    "kind": ("File of the result", "结果文件"),
    "go": ("Fuse", "开始融合"),
    "download": ("Download the result, full size", "下载结果（原始尺寸）"),
    "undo": ("Undo the shift and fuse again", "校正平移并重新融合"),
    "shifted": (
        "The images look shifted against each other: {shift}.",
        "两幅图像之间似乎有平移：{shift}。",
    ),
    "guessed": ("Task {task}: {reason}.", "任务 {task}：{reason}。"),
    "swapped": ("A and B are exchanged.", "A 与 B 已互换。"),
    "fused": ("fused", "融合结果"),
    "left": ("Left", "左侧"),
    "right": ("Right", "右侧"),
    "divider": (
        "Divider between the left and the right image",
        "左右两幅图像之间的分界线",
    ),
    "values": ("Metrics of the result", "结果的评价指标"),
    "measuring": ("Metrics are being computed …", "正在计算评价指标……"),
    "both": ("Choose two images, A and B.", "请选择两幅图像 A 和 B。"),
    "fault": (
        "A fault of jfusion's own; the terminal says more.",
        "jfusion 内部错误，详情见终端。",
    ),
    "size": ("{width} × {height} pixels", "{width} × {height} 像素"),
    "seconds": ("{seconds:.1f} s", "{seconds:.1f} 秒"),
    "IVF": ("infrared and visible", "红外与可见光"),
    "MIF": ("medical", "医学图像"),
    "MEF": ("exposures", "多曝光"),
    "MFF": ("focuses", "多聚焦"),
    "NIR": ("near-infrared and visible", "近红外与可见光"),
    "PIF": ("polarization", "偏振"),
}


class Words:
    """The texts in one language: `words("fuse")`, `words("size", width=3, height=4)`."""

    def __init__(self, language: str = "en"):
        self.chinese = language == "zh"

    @classmethod
    def of(cls, request: Any) -> Words:
        """In the language that the browser of a request likes best; English for a program."""
        accepted = request.headers.get("accept-language", "") if request is not None else ""
        return cls("zh" if accepted.lower().startswith("zh") else "en")

    def __call__(self, key: str, **values: object) -> str:
        """The text called `key`, with its values filled in."""
        return TEXTS[key][self.chinese].format(**values)


def translations() -> dict[str, dict[str, str]]:
    """Language -> key -> text, for Gradio."""
    return {
        language: {key: texts[i] for key, texts in TEXTS.items()}
        for i, language in enumerate(("en", "zh"))
    }
