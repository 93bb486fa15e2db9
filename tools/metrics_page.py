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

[中文](zh/metrics.md)

Made by `python tools/metrics_page.py`; do not edit.

`jfusion metrics --a DIR --b DIR --fused DIR` evaluates folders of fused images; from Python,
`jfusion.metrics.evaluate(fused, a, b, preset="film")`. Values are levels 0..255. The mean of a metric
leaves out images for which it is not defined, and says how many.

## Several methods and data sets

    jfusion metrics --a ir --b vi --fused Ours=ours --fused "Theirs=out/{name}_fused" --std
    jfusion metrics --set TNO tno/ir tno/vi --set MSRS msrs/ir msrs/vi --fused results/ours results/theirs
    jfusion metrics table.yaml --latex table.tex

Images belong together by name without its ending. `{name}` in the last part of a path says which part of a
file's name is the name of the pair; for fused images one prefix and one suffix are found without it, and
printed. With several data sets `{set}` in the folder of a method is the name of the set; without it, the
method has a folder of that name for each set. `table.yaml` holds all of this, and any option:

```yaml
sets:
  TNO: {a: tno/ir, b: tno/vi, list: tno/test.txt}      # truth: DIR, paper: SYSTEM or [SYSTEM/DATASET, ...]
  RoadScene: {a: road/ir, b: road/vi, paper: [film, cddfuse]}
methods:
  Ours: results/ours/{set}
  Theirs: results/theirs/{set}/{name}_fused
preset: film
metrics: EN,SD,SF,AG,VIF,Qabf
rank: true
latex: table.tex
caption: Comparison on two data sets.
figures: figures
```

Relative paths begin in the folder of that file, and options on the command line win. A method that lacks
pairs limits all methods to the pairs that all have, with a note; `--no-common` evaluates each on its own. A
method that lacks a whole data set stays empty there, and is not ranked.

| output | what |
|---|---|
| `--latex` | one table (booktabs, graphicx), data sets as `--layout blocks` or `columns`, in the largest font that fits a column or a page of two columns; `--caption`, `--label`, `--decimals EN=2,MI=3`, `--std` |
| `--markdown` | the tables, the ranks and the notes |
| `--html` | one web page: these, charts, the values of each image, and every pair with a divider ([app.md](app.md#reports)) |
| `--csv` | `dataset,method,image,metric,value`, a value a line |
| `--json` | values, means, deviations, ranks, tests and notes |
| `--figures` | box and violin plots, radar, scatter of two metrics, heat map of the images, ranks, critical differences; `--format pdf` |
| `--strips` | a strip for each pair: sources, methods, and below them enlarged regions, `--zoom X,Y,W,H` or where the methods differ most; `--palette inferno` colors a gray source A |

## Ranks and significance

`--rank` adds the mean rank of each method (1 is the best on every image; equal values share the mean of
their ranks) by data set and over all pairs, in each metric and over all metrics (the mean ranks of an image
over the metrics that all methods have there, ranked again). The tests are those of Demsar (JMLR 2006), over the
pairs of all data sets: Friedman's test of all methods; Wilcoxon's signed-rank test of each method against
the one of the best mean rank, with Holm's correction; and Nemenyi's critical difference, with its diagram in
`--figures`. A test takes pairs of images as independent; frames of one video are not, and its p-values are
then too small. Metrics are related to each other, so that "all metrics" is no more than a summary.

## Published rows

`--paper film/RoadScene` adds a published row and the differences. `jfusion papers show film/RoadScene`
prints what was published, each source with the preset that it can be compared with and its caveat. A row
stands only next to values of an evaluator that can be compared, and only its metrics of the same
definition; otherwise a note says why not. Rows that other papers measured (`LFDT-Fusion`), and VIFB's
averages of 26 methods (`--preset vifb --paper SwinFusion/VIFB`), are there too.

## Presets

Papers use one name for several formulas. A preset is one evaluator of the field, with its formulas:

"""
REST = """`--metrics all` adds, in any preset, the metrics it does not print. NIQE and BRISQUE are computed where they are
named (`--metrics EN,SD,NIQE,BRISQUE`): they need the parameters that their authors published, which are fetched
once, at a fixed commit and with a checksum; without a connection a message says which file to put where. Both see
the fused image alone, in gray, and were made for photographs in visible light. On the image I04 that pyiqa
publishes with the values of LIVE's MATLAB code, ours are 3.65492152353813 and -0.107618; MATLAB's are
3.65492152353770 and -0.107618. Its other four images have flat areas, where both metrics are rounding noise in
MATLAB and here: NIQE differs by 0.002 % to 4 %, BRISQUE by up to 1.

A metric that could not be shown to equal a reference is left out. FMI of wavelets: its MATLAB code uses the filter
"dmey" of MATLAB's Wavelet Toolbox, of 102 coefficients, which Octave lacks; that of PyWavelets has 62 and is
another filter, and no published value belongs to images that can be had. LPIPS needs PyTorch.

## Gray, Y, or each channel

VIFB evaluates color images channel by channel, and so does `vifb` where the file of a fused image has three
channels, equal or not: each metric is the mean over R, G and B, a gray source standing for all three. SF is
that of the three channels side by side, as VIFB's code computes it. A fused image of one channel is compared
with the luma of the sources. The other presets evaluate the luma, 0.299 R + 0.587 G + 0.114 B, always.

VIFB's authors publish their own values of 26 methods and 21 pairs, and the fused images of 25 methods: 525 triples
in 13 metrics. For 23 of the methods no value differs by more than 5.0e-5, the rounding of the published digits.
Those of the other two, SwinFusion and YDTR, differ in every metric, also in SD and EN, which see the fused image
alone (up to 2e-3; CE, Qcb and Qcv up to 6e-2): the files that are published are not those that were evaluated.
VIFB's code does not evaluate again what has a value. No JPEG decoder (the transforms of libjpeg, with and without
smooth chroma), encoding again, luma, or cropping brings them together. Relative differences:

| | AG | CE | EI | EN | MI | PSNR | Qabf | Qcb | Qcv | RMSE | SF | SSIM | SD |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
| median, 25 methods | 6e-6 | 9e-6 | 5e-6 | 4e-6 | 1e-5 | 5e-6 | 5e-6 | 5e-6 | 7e-6 | 7e-6 | 1e-5 | 2e-5 | 6e-6 |
| 95 %, 25 methods | 2.4e-4 | 2.3e-3 | 2.6e-4 | 1.5e-4 | 3.4e-4 | 9e-6 | 4.9e-4 | 6.2e-4 | 8.5e-4 | 1.0e-4 | 2.2e-4 | 8e-5 | 1.5e-4 |
| largest, 23 methods | 5e-5 | 5e-5 | 4e-5 | 8e-6 | 4e-5 | 9e-6 | 2e-5 | 1e-5 | 5e-5 | 4e-5 | 5e-5 | 5e-5 | 3e-5 |

(Of seven methods with SwinFusion among them, 147 triples, the 95th percentile of Qcv is 2.5e-3; without it, 3e-5.)

What the choice is worth: the means of VIFB's metrics for one method (CNN, 21 pairs) by channel, of the luma
(FILM's reader; Pillow's `L` agrees to 1e-6), and of the Y of MATLAB's `rgb2ycbcr` and of video, whose range
is 16..235. Y is not comparable with anything: it lowers every metric of contrast by a seventh.

| | AG | CE | EI | EN | MI | PSNR | Qabf | Qcb | Qcv | RMSE | SF | SSIM | SD |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
| channels | 5.81 | 1.03 | 60.24 | 7.32 | 2.65 | 57.93 | 0.66 | 0.62 | 512.6 | 0.1178 | 18.81 | 1.39 | 60.08 |
| luma | 5.75 | 1.03 | 59.64 | 7.33 | 2.70 | 57.99 | 0.66 | 0.62 | 510.1 | 0.1159 | 18.50 | 1.40 | 59.42 |
| Y, 16..235 | 4.95 | 1.05 | 51.25 | 7.11 | 2.63 | 58.65 | 0.66 | 0.62 | 508.4 | 0.0996 | 15.89 | 1.49 | 51.03 |"""
OWN = {
    "cddfuse": "its SSIM has a data range of 2",
    "film-nankai": "EN has a guard of 1e-7; MI in bits; AG over (H-1)(W-1); MSE on 0..1; PSNR with a "
    "peak of 255 squared; VIF without a guard; Nabf without weak edges; Gaussian SSIM and MS_SSIM with "
    "a float32 window; color made gray by Pillow",
    "vifb": "AG over (H-1)(W-1); MI of min-max normalized images; PSNR of its RMSE; SF over H W; Gaussian SSIM; channels of color images",
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
    toolbox = golden("metrics/octave_toolbox.npz")
    triples = [str(t) for t in toolbox["triples"]]
    for name, column in zip(map(str, toolbox["metrics"]), toolbox["values"].T, strict=True):
        if name in metrics.METRICS:
            lines.append(row(data, "film", name, dict(zip(triples, column, strict=True))))
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
