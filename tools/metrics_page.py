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

This page is written by `python tools/metrics_page.py`; edit that file, not this one.

`jfusion metrics --a DIR --b DIR --fused DIR` evaluates folders of fused images. In Python it is
`jfusion.metrics.evaluate(fused, a, b, preset="film")`, with gray levels from 0 to 255. Where a metric is not
defined for an image (the correlation with a constant image, say), the mean is over the other images, and the
output says how many were left out.

## Several methods and data sets

    jfusion metrics --a ir --b vi --fused Ours=ours --fused "Theirs=out/{name}_fused" --std
    jfusion metrics --set TNO tno/ir tno/vi --set MSRS msrs/ir msrs/vi --fused results/ours results/theirs
    jfusion metrics table.yaml --latex table.tex

Images belong together when their file names are equal up to the extension: `ir/01.png`, `vi/01.jpg`, `ours/01.png`.
Where the fused files have more in their names, as in `out/01_fused.png`, write `out/{name}_fused`: `{name}` stands
for the name of the pair. If all fused files have the same prefix or suffix, it is also recognized without `{name}`,
and printed. With several data sets, `{set}` in a method's path stands for the name of the set; without it, the
method's folder must contain one folder for each set. All of this, and any option, can be written into a file, here
`table.yaml`:

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

Relative paths begin in the folder of that file. An option on the command line wins over the file. If a method lacks
some pairs, all methods are evaluated on the pairs that every method has, and a note says so; with `--no-common`
each method is evaluated on all of its own. A method that lacks a whole data set has empty cells there, and is not
ranked.

| output | what |
|---|---|
| `--latex` | one table, which needs the packages booktabs and graphicx: the data sets below one another (`--layout blocks`) or side by side (`--layout columns`), in the largest font that fits the width of a column or, failing that, of a page; see also `--caption`, `--label`, `--decimals EN=2,MI=3`, `--std` |
| `--markdown` | the tables, the ranks and the notes |
| `--html` | one web page: the same, charts, the values of each image, and every pair with a slider to compare its images ([app.md](app.md#reports)) |
| `--csv` | one value a line: `dataset,method,image,metric,value` |
| `--json` | values, means, standard deviations, ranks, tests and notes |
| `--figures` | box and violin plots, radar, scatter of two metrics, heat map of the images, ranks, critical differences; `--format pdf` |
| `--strips` | one picture for each pair: sources and methods side by side, and below them enlarged regions, given by `--zoom X,Y,W,H` or chosen where the methods differ most; `--palette inferno` colors a gray source A |

## Ranks and significance

`--rank` ranks the methods on every image: 1 is the best, and equal values share the mean of their ranks. The tables
show each method's mean rank, for each metric and for all metrics together, by data set and over all pairs. For "all
metrics", a method's ranks on an image are averaged over the metrics that every method has there, and these averages
are ranked again.

Three tests, as Demsar (JMLR 2006) recommends, say whether the differences are significant, over the pairs of all data
sets. Friedman's test asks whether the methods differ at all. Wilcoxon's signed-rank test compares each method with the
one that has the best mean rank (p-values after Holm's correction). Nemenyi's critical difference is the distance that
two mean ranks need to be significantly different; `--figures` draws it. The tests assume that pairs are independent.
Frames of one video are not, and make the p-values too small. Metrics are related to each other, so take "all
metrics" as a summary only.

## Published rows

`--paper film/RoadScene` adds the row that was published for FILM on RoadScene, and the differences from it. `jfusion
papers show film/RoadScene` prints all published rows: where each comes from, which preset its values can be compared
with, and what to beware of. A row is only added where your preset can be compared with the evaluator that made it, and
only in the metrics that both define alike; otherwise a note says why not. There are also rows that other papers
measured (of `LFDT-Fusion`), and VIFB's averages of 26 methods (`--preset vifb --paper SwinFusion/VIFB`).

## Presets

Papers use the same name for different formulas, so values from two evaluators cannot be compared. A preset has the
formulas of one evaluator that papers use:

"""
REST = """`--metrics all` adds, in any preset, the metrics that it does not show by itself, except NIQE and BRISQUE.

NIQE and BRISQUE are computed only where they are named (`--metrics EN,SD,NIQE,BRISQUE`). They need parameters that
their authors published: these are downloaded once, from a fixed commit, and their checksum is verified; without a
connection, a message says which file to put where. Both look at the fused image alone, in gray, and were made for
photographs in visible light. To check them, pyiqa publishes five images with the values of LIVE's MATLAB code. For its
image I04, MATLAB gives 3.65492152353770 and -0.107618, and jfusion 3.65492152353813 and -0.107618. The other four
images have flat areas, where both metrics consist of rounding noise, in MATLAB and here: NIQE differs by 0.002 % to
4 %, BRISQUE by up to 1.

jfusion leaves out a metric that could not be shown to equal a reference. FMI of wavelets is missing because its MATLAB
code uses the filter "dmey" of the Wavelet Toolbox, with 102 coefficients: Octave does not have it, PyWavelets' filter of
that name has 62 coefficients and is another one, and no published value belongs to images that can be obtained. LPIPS
is missing because it needs PyTorch.

## Gray, Y, or each channel

VIFB evaluates color images channel by channel, and so does `vifb` where the file of a fused image has three channels,
even three equal ones: each metric is the mean over R, G and B, and a gray source is compared with each of the three.
Only SF is different: as in VIFB's code, it is computed once, of the three channels side by side. A fused image of one
channel is compared with the luma of the sources. The other presets always evaluate the luma, 0.299 R + 0.587 G +
0.114 B.

How close is `vifb` to VIFB? Its authors publish their values of 26 methods on 21 pairs in 13 metrics, and the fused
images of 25 of these methods (525 triples). For 23 methods, no value differs by more than 5.0e-5, the rounding of the
published digits. For the other two, SwinFusion and YDTR, every metric differs, even SD and EN, which see the fused image
alone (up to 2e-3; CE, Qcb and Qcv up to 6e-2). The published files of these two are therefore not the images that were
evaluated, which can happen because VIFB's code does not evaluate a method again that has values already. Other JPEG
decoders (libjpeg's transforms, with and without smooth chroma), encoding once more, luma, and cropping were tried, and
none explains the difference. Relative differences:

| | AG | CE | EI | EN | MI | PSNR | Qabf | Qcb | Qcv | RMSE | SF | SSIM | SD |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
| median, 25 methods | 6e-6 | 9e-6 | 5e-6 | 4e-6 | 1e-5 | 5e-6 | 5e-6 | 5e-6 | 7e-6 | 7e-6 | 1e-5 | 2e-5 | 6e-6 |
| 95 %, 25 methods | 2.4e-4 | 2.3e-3 | 2.6e-4 | 1.5e-4 | 3.4e-4 | 9e-6 | 4.9e-4 | 6.2e-4 | 8.5e-4 | 1.0e-4 | 2.2e-4 | 8e-5 | 1.5e-4 |
| largest, 23 methods | 5e-5 | 5e-5 | 4e-5 | 8e-6 | 4e-5 | 9e-6 | 2e-5 | 1e-5 | 5e-5 | 4e-5 | 5e-5 | 5e-5 | 3e-5 |

The row of 95 % is above the last one because of the two methods, which are 8 % of the triples.

How much does the choice of channels matter? These are the means of VIFB's metrics for one method (CNN, 21 pairs): by
channel; of the luma, as FILM's reader computes it (Pillow's `L` agrees to 1e-6); and of the Y of MATLAB's `rgb2ycbcr`
and of video, which has the range 16..235. Values of that Y cannot be compared with any others: AG, EI, SF, SD and RMSE
are lower by a seventh.

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
        f"For each metric: its value for one triple of images (`{SHOWN}` in tests/golden/metrics), computed by the",
        "original evaluator and by jfusion, and the largest relative difference over all triples there whose value",
        "is finite and not 0. FMI is computed of the upper left corner only; FMI_dct leaves out the triples with a",
        "constant image, whose cosine transform is rounding noise.",
        "",
        "| preset | metric | evaluator | jfusion | largest relative difference |",
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
