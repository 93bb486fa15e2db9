"""Every preset against the values of its own evaluator (tests/golden/metrics, tests/golden/cddfuse)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jfusion import metrics

# Absolute, in addition to 1e-6 relative: the fixtures' own tolerances, and FILM-Nankai's float32 values.
TOLERANCE = {
    "film": {"EN": 1e-9, "MI": 1e-9, "VIF": 1e-7, "SSIM": 2e-6},
    "film-nankai": {"EN": 1e-9, "MI": 1e-9},
    "vifb": {"MI": 1e-9, "EN": 1e-9, "CE": 1e-9},
}
VIFB = {
    "Avg_gradient": "AG",
    "Cross_entropy": "CE",
    "Edge_intensity": "EI",
    "Entropy": "EN",
    "Mutinf": "MI",
    "Psnr": "PSNR",
    "Rmse": "RMSE",
    "Spatial_frequency": "SF",
    "Ssim": "SSIM",
    "Variance": "SD",
}
TRIPLES = {
    "film": ("evaluator_float64_input", "metrics"),
    "film-nankai": ("other", "other_metrics"),
}


def reference(golden, preset: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """The triples' names, and each metric's values by our name."""
    data = golden("metrics/metrics.npz")
    triples = [str(t) for t in data["triples"]]
    if preset in TRIPLES:
        values, names = (data[key] for key in TRIPLES[preset])
        return triples, {
            {"VIFF": "VIF"}.get(str(n), str(n)): values[:, i] for i, n in enumerate(names)
        }
    octave = golden("metrics/octave.npz")
    named = {str(n): octave["values"][:, i] for i, n in enumerate(octave["metrics"])}
    return triples, {
        VIFB.get(n.removeprefix("vifb."), n.removeprefix("vifb.")): v for n, v in named.items()
    }


@pytest.mark.parametrize("preset", ["film", "film-nankai", "vifb"])
def test_equals_the_evaluator(golden, preset):
    data = golden("metrics/metrics.npz")
    triples, columns = reference(golden, preset)
    assert set(metrics.preset(preset).columns) <= set(columns)
    for name in set(columns) - {"VIFF_module", "FMI_pixel", "FMI_dct"}:
        for triple, expected in zip(triples, columns[name], strict=True):
            images = [data[f"{triple}.{x}"] for x in "FAB"]
            found = metrics.evaluate(*images, preset, [name])[name]
            atol = TOLERANCE[preset].get(name, 1e-12)
            np.testing.assert_allclose(found, expected, 1e-6, atol, err_msg=f"{name} {triple}")


@pytest.mark.parametrize("name", ["FMI_pixel", "FMI_dct"])
def test_feature_mutual_information_equals_its_matlab_code(golden, name):
    data = golden("metrics/metrics.npz")
    height, width = golden("metrics/octave.npz")["corner"]
    triples, columns = reference(golden, "vifb")
    for triple, expected in zip(triples, columns[name], strict=True):
        if name == "FMI_dct" and triple.startswith("constant"):
            continue  # the cosine transform of a constant is rounding noise, and so is its FMI
        images = [data[f"{triple}.{x}"][:height, :width] for x in "FAB"]
        found = metrics.evaluate(*images, names=[name])[name]
        np.testing.assert_allclose(found, expected, 1e-6, 1e-12, err_msg=triple)


@pytest.mark.parametrize("name", ["Qy", "Qw", "Qe", "Qp"])
def test_equals_the_toolbox_of_liu(golden, name):
    data, octave = golden("metrics/metrics.npz"), golden("metrics/octave_toolbox.npz")
    column = octave["values"][:, list(octave["metrics"]).index(name)]
    for triple, expected in zip(octave["triples"], column, strict=True):
        found = metrics.evaluate(*(data[f"{triple}.{x}"] for x in "FAB"), names=[name])[name]
        # in flat areas the variances that weight Qw and Qe are rounding noise
        rtol = 1e-5 if triple == "saturated" else 1e-9
        np.testing.assert_allclose(found, expected, rtol, 1e-11, err_msg=triple)


def test_cddfuse_prints_ssim_with_a_data_range_of_2(golden):
    data = golden("cddfuse/metrics.npz")
    images = [data[k] for k in ("fused", "ir", "vi")]
    height, width = data["crop"]
    names = [{"VIFF": "VIF"}.get(str(n), str(n)) for n in data["names"]]
    whole = metrics.evaluate(*images, "cddfuse")
    assert list(whole) == names
    np.testing.assert_allclose([whole[n] for n in names], data["values_float64"], 1e-6)
    cut = metrics.evaluate(*(x[:height, :width] for x in images), "cddfuse")
    np.testing.assert_allclose([cut[n] for n in names], data["values_cropped"], 1e-6)
    extra = metrics.evaluate(*images, "cddfuse", [str(n) for n in data["extra_names"]])
    np.testing.assert_allclose(list(extra.values()), data["extra"], 1e-6)
    assert metrics.evaluate(*images, "film")["SSIM"] == pytest.approx(data["ssim_range255"], 1e-6)


def test_sources_judged_once_give_the_same_values(golden):
    data = golden("metrics/metrics.npz")
    f, a, b = (data[f"weighted.{x}"] for x in "FAB")
    shared = metrics.GrayImage(a), metrics.GrayImage(b)
    for fused in (f, a // 2 + b // 2):
        once = metrics.evaluate(fused, *shared, names="all")
        assert once == pytest.approx(metrics.evaluate(fused, a, b, names="all"), nan_ok=True)


def test_the_page_shows_every_metric_and_preset():
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    for name, metric in metrics.METRICS.items():
        assert f"**{name}** {'↑' if metric.higher_is_better else '↓'}" in page
    assert all(f"| `{name}` | {p.title} |" in page for name, p in metrics.PRESETS.items())


def test_color_images_equal_vifb_channel_by_channel(golden):
    """VIFB's own code on color images: a gray source, all in color, and three equal channels."""
    data, octave = golden("metrics/metrics.npz"), golden("metrics/octave_color.npz")
    names = [str(n).removeprefix("vifb.") for n in octave["metrics"]]
    for case, row in zip(octave["cases"], octave["values"], strict=True):
        images = []
        for side in "FAB":
            channels = [data[str(n)] for n in octave[f"{case}.{side}"]]
            images.append(np.dstack(channels) if len(channels) == 3 else channels[0])
        found = metrics.evaluate(*images, "vifb")
        for name, expected in zip(names, row, strict=True):
            name = VIFB.get(name, name)
            np.testing.assert_allclose(found[name], expected, 1e-6, 1e-9, err_msg=f"{name} {case}")


def test_a_gray_fused_image_is_compared_with_the_luma_of_the_sources(golden):
    data = golden("metrics/metrics.npz")
    fused, a = data["weighted.F"], data["weighted.A"]
    b = np.dstack([data[f"{n}.B"] for n in ("weighted", "saturated", "noise")])
    luma = np.round(b @ np.float32([0.299, 0.587, 0.114]))
    expected = metrics.evaluate(fused, a, luma, "vifb")
    assert metrics.evaluate(fused, a, b, "vifb") == pytest.approx(expected)
    sources = (metrics.prepare(x, "vifb") for x in (a, b))
    assert metrics.evaluate(fused, *sources, "vifb") == pytest.approx(expected)
    assert metrics.evaluate(np.dstack([fused] * 3), a, b, "vifb")["MI"] != expected["MI"]
