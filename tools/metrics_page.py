"""Writes docs/metrics.md: every metric with its formula's docstring, every preset, and a calibration.

    python tools/metrics_page.py

The calibration compares ours with the values of each preset's own evaluator (tests/golden).
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jfusion import metrics  # noqa: E402
from tests.metrics.test_golden import reference  # noqa: E402

SHOWN = "weighted"
HEAD = """# Metrics

Made by `python tools/metrics_page.py`; do not edit.

`jfusion metrics --a DIR --b DIR --fused DIR` evaluates folders of fused images; from Python,
`jfusion.metrics.evaluate(fused, a, b, preset="film")`. Images are gray, 0..255. The mean of a metric
leaves out images for which it is not defined, and says how many.

Papers use one name for several formulas. A preset is one evaluator of the field, with its formulas:

"""
REST = """`--metrics all` adds, in any preset, the metrics it does not print. FMI of wavelets is not offered: its
MATLAB code needs the filter "dmey", which Octave lacks, so that there was no value to check against."""
OWN = {
    "cddfuse": "its SSIM has a data range of 2",
    "film-nankai": "EN has a guard of 1e-7; MI in bits; AG over (H-1)(W-1); MSE on 0..1; PSNR with a "
    "peak of 255 squared; VIF without a guard; Nabf without weak edges; Gaussian SSIM and MS_SSIM with "
    "a float32 window; color made gray by Pillow",
    "vifb": "AG over (H-1)(W-1); MI of min-max normalized images; PSNR of its RMSE; SF over H W; Gaussian SSIM",
}


def main() -> None:
    """Writes the page."""
    lines = [HEAD, "| preset | evaluator | columns | differs from `film` in |", "|---|---|---|---|"]
    for name, preset in metrics.PRESETS.items():
        columns = ", ".join(preset.columns)
        lines.append(f"| `{name}` | {preset.title} | {columns} | {OWN.get(name, '-')} |")
    lines += ["", REST, ""]
    lines += ["## Calibration", "", *calibration(), "## Formulas", "", *formulas()]
    (ROOT / "docs/metrics.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def formulas() -> list[str]:
    """Each metric's docstring."""
    lines = []
    for name, metric in metrics.METRICS.items():
        arrow = "↑" if metric.higher_is_better else "↓"
        lines += [f"**{name}** {arrow} {inspect.getdoc(metric.compute)}", ""]
    return lines


def golden(name: str) -> np.lib.npyio.NpzFile:
    """A fixture."""
    return np.load(ROOT / "tests/golden" / name)


def calibration() -> list[str]:
    """Metric x preset x reference x ours, and the largest relative difference over all triples."""
    data = golden("metrics/metrics.npz")
    lines = [
        f"The value of one triple (`{SHOWN}` of tests/golden/metrics) by the evaluator and by ours, and",
        "the largest relative difference over all its triples where both are finite and not 0. FMI is of",
        "the upper left corner; FMI_dct without the triples that hold a constant image, of which the",
        "cosine transform is rounding noise.",
        "",
        "| preset | metric | evaluator | ours | largest relative difference |",
        "|---|---|---|---|---|",
    ]
    for preset in ("film", "film-nankai", "vifb"):
        triples, columns = reference(golden, preset)
        others = [c for c in columns if c not in metrics.PRESETS[preset].columns]
        for name in [*metrics.PRESETS[preset].columns, *others]:
            if name in metrics.METRICS:
                lines.append(
                    row(data, preset, name, dict(zip(triples, columns[name], strict=True)))
                )
    return [*lines, cddfuse(), ""]


def row(data: np.lib.npyio.NpzFile, preset: str, name: str, expected: dict[str, float]) -> str:
    """One line of the table."""
    corner = (
        tuple(golden("metrics/octave.npz")["corner"]) if name.startswith("FMI") else (None, None)
    )
    largest, ours = 0.0, {}
    for triple, value in expected.items():
        images = [data[f"{triple}.{x}"][: corner[0], : corner[1]] for x in "FAB"]
        ours[triple] = metrics.evaluate(*images, preset, [name])[name]
        noise = name == "FMI_dct" and triple.startswith("constant")
        if np.isfinite(value) and abs(value) > 1e-12 and not noise:
            largest = max(largest, abs(ours[triple] / value - 1))
    shown = SHOWN if np.isfinite(expected[SHOWN]) else "larger"
    label = preset if name in metrics.PRESETS[preset].columns else "every preset (MATLAB code)"
    return f"| {label} | {name} | {expected[shown]:.9g} | {ours[shown]:.9g} | {largest:.0e} |"


def cddfuse() -> str:
    """CDDFuse's own SSIM."""
    data = golden("cddfuse/metrics.npz")
    expected = data["values_float64"][list(data["names"]).index("SSIM")]
    ours = metrics.evaluate(data["fused"], data["ir"], data["vi"], "cddfuse", ["SSIM"])["SSIM"]
    return f"| cddfuse | SSIM | {expected:.9g} | {ours:.9g} | {abs(ours / expected - 1):.0e} |"


if __name__ == "__main__":
    main()
