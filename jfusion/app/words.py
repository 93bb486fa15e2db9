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
    "compiles": (
        "The first use of a network takes a while: Jittor starts, and compiles it once on this machine.",
        "首次使用网络需要等待：Jittor 正在启动，并在本机编译一次。",
    ),
    "both": ("Choose two images, A and B.", "请选择两幅图像 A 和 B。"),
    "fault": (
        "A fault of jfusion's own; the terminal says more.",
        "jfusion 内部错误，详情见终端。",
    ),
    "size": ("{width} × {height} pixels", "{width} × {height} 像素"),
    "seconds": ("{seconds:.1f} s", "{seconds:.1f} 秒"),
    "compare": ("Compare", "比较"),
    "methods": ("Methods, up to six", "方法（最多六种）"),
    "compare_go": ("Compare", "开始比较"),
    "some": ("Choose one to six methods.", "请选择一到六种方法。"),
    "zoom": ("Zoom", "缩放"),
    "grid": (
        "Images side by side; enlarge with + and -, move with the arrow keys",
        "并排的图像；按 + 和 - 缩放，按方向键移动",
    ),
    "working": ("{method} … ({done} of {count} are done)", "{method}……（已完成 {done}/{count}）"),
    "folder": ("Folder", "文件夹"),
    "zip": (
        "A zip file with two folders, whose images have the same names",
        "含有两个文件夹的 zip 文件，两边的图像同名",
    ),
    "path_a": ("Or folder A on this machine", "或本机上的文件夹 A"),
    "path_b": ("Folder B on this machine", "本机上的文件夹 B"),
    "folder_go": ("Fuse all pairs", "融合全部图像对"),
    "stop": ("Stop", "停止"),
    "zip_out": ("Download the results (zip)", "下载结果（zip）"),
    "needs_folder": (
        "Choose a zip file, or name two folders.",
        "请选择 zip 文件，或填写两个文件夹。",
    ),
    "progress": ("{done} of {count} fused.", "已融合 {done}/{count} 对。"),
    "stopped": (
        "Stopped: {done} of {count} fused.",
        "已停止：已融合 {done}/{count} 对。",
    ),
    "done": ("Done: {done} of {count} fused.", "完成：已融合 {done}/{count} 对。"),
    "starting": ("The images are being looked at …", "正在检查图像……"),
    "results": ("Results", "结果"),
    "no_results": (
        "The page of results comes with the repository (docs/results.md); this installation is without it.",
        "结果页面随代码仓库提供（docs/results.md），此安装中没有。",
    ),
    "cards": ("Weights that come with jfusion", "随 jfusion 提供的权重"),
    "runs": ("Runs", "训练"),
    "run": ("Run", "训练"),
    "refresh": ("Look again", "刷新"),
    "no_runs": (
        "There is no run yet; jfusion train makes one.",
        "还没有训练记录；jfusion train 会创建。",
    ),
    "curves": ("Curves and previews of {run}", "{run} 的曲线与预览"),
    "setting": ("Setting", "设置"),
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
