"""DDFM's EM step and PyTorch's noise against the reference's arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfusion.diffusion.noise import TorchNoise
from jfusion.runtime import jt
from jfusion.systems.ddfm import em
from jfusion.systems.ddfm.em import Likelihood, Smoothing, _spectrum


def psf2otf(kernel, shape):
    """Zero-padded at the right and below, rolled by half its size, transformed."""
    padded = np.zeros(shape)
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    for axis, size in enumerate(kernel.shape):
        padded = np.roll(padded, -(size // 2), axis)
    return np.fft.fft2(padded)


def test_the_smoothing_divides_by_the_references_transfer_functions(golden):
    z = golden("ddfm/em.npz")
    for key in (k for k in z.files if k.startswith("psf2otf.k1.")):
        shape = tuple(map(int, key.rsplit(".", 1)[1].split("x")))
        for name, axis, kernel in (("k1", 1, [[1, -1]]), ("k2", 0, [[1], [-1]])):
            expected = z[key.replace("k1", name)]
            np.testing.assert_allclose(psf2otf(np.array(kernel), shape), expected, atol=1e-5)
            line = abs(expected[0] if axis else expected[:, 0]) ** 2
            np.testing.assert_allclose(_spectrum(shape[axis]), line, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (5, 4), (9, 16)])
def test_smoothing_solves_its_equation(shape):
    r = np.random.default_rng(0).standard_normal((2, 1, *shape))
    k1, k2 = psf2otf(np.array([[1, -1]]), shape), psf2otf(np.array([[1], [-1]]), shape)
    expected = np.fft.ifft2(np.fft.fft2(r) / (1 + abs(k1) ** 2 + abs(k2) ** 2)).real
    smooth, r = Smoothing(*shape), jt.array(r.astype(np.float32))
    np.testing.assert_allclose(smooth(r).numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(smooth.reference(r).numpy(), expected, atol=2e-6)


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.sampled_from(["released", "paper"])
)
@settings(max_examples=12)
def test_the_kernels_follow_the_reference_step(n, h, w, estimate):
    rng = np.random.default_rng(n * h * w)
    maps = rng.uniform(-1, 1, (5, n, 1, h, w)).astype("f4")
    inputs = [*maps, *rng.uniform(0.1, 1, (2, n, 1, 1, 1)).astype("f4")]
    found = em._expectation(*map(jt.array, inputs))
    expected = in_float64(em.expectation_reference, inputs)
    for i, (x, y) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-4, atol=1e-5, err_msg=str(i))
    inputs, settings = [*expected[:3], *maps[1:3]], (0.3, 0.2, estimate)
    found = em._maximization(*(jt.array(x.astype("f4")) for x in inputs), *settings)
    expected = in_float64(em.maximization_reference, inputs, *settings)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-4, atol=1e-5)


def in_float64(step, inputs, *settings):
    """In float32, Jittor may add the small constant before it subtracts, which loses digits."""
    with jt.flag_scope(auto_convert_64_to_32=0):
        arrays = (jt.array(x.astype("f8")) for x in inputs)
        return [v.numpy() for v in step(*arrays, *settings)]


@pytest.mark.parametrize("case, lamb, rho", [("a", 0.5, 0.001), ("b", 0.3, 0.5)])
def test_em_step_and_its_state(golden, case, lamb, rho):
    z = golden("ddfm/em.npz")
    step = Likelihood(jt.array(z[f"{case}.I"]), jt.array(z[f"{case}.V"]), lamb, rho)
    for i, f in enumerate(z[f"{case}.f_pre"]):
        found = {"F": step(jt.array(f)), "H": step.h, "F1": step.f1, "F2": step.f2}
        found |= {"tau_a": step.tau_a, "tau_b": step.tau_b}
        for name, value in found.items():
            expected = z[f"{case}.{name}"][i]
            np.testing.assert_allclose(
                value.numpy().reshape(expected.shape), expected, rtol=0, atol=1e-5, err_msg=name
            )
        for name, value in (("C", step.c), ("D", step.d)):
            expected = z[f"{case}.{name}"][i]
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-3, err_msg=name)
            np.testing.assert_allclose(1 / value.numpy(), 1 / expected, rtol=0, atol=1e-5)


def test_the_estimate_alternates_between_the_sources(golden):
    """Without a network: each result is the next input."""
    z = golden("ddfm/em.npz")
    first, second = z["a.I"], z["a.V"]
    step, f = Likelihood(jt.array(first), jt.array(second), 0.5, 0.001), jt.array(z["a.f_pre"][0])
    apart = abs(first - second) > 0.2
    for taus in z["a.closed_tau"]:
        f = step(f)
        found = [float(step.tau_a.item()), float(step.tau_b.item())]
        np.testing.assert_allclose(found, taus, rtol=0, atol=1e-5)
        weight = ((first - f.numpy()) / np.where(apart, first - second, 1))[apart]
        assert weight.min() >= 1 / 3 - 1e-3 and weight.max() <= 1
    np.testing.assert_allclose(f.numpy(), z["a.closed_F"], rtol=0, atol=1e-5)


def test_the_papers_estimate_is_the_mirror_image_and_each_sample_has_its_own_scales(golden):
    z = golden("ddfm/em.npz")
    first = np.concatenate([z["a.I"], 0.5 * z["a.I"]])
    second = np.concatenate([z["a.V"], 0.2 * z["a.V"]])
    f = np.concatenate([z["a.f_pre"][0], z["a.f_pre"][1]])

    def run(i, estimate="released"):
        return Likelihood(jt.array(first[i]), jt.array(second[i]), 0.5, 0.1, estimate)

    both, paper = run(slice(None)), run(slice(None), "paper")
    alone = [run(slice(i, i + 1)) for i in range(2)]
    for _ in range(2):
        out = both(jt.array(f)).numpy()
        mirrored = paper(jt.array(f)).numpy()
        np.testing.assert_allclose(out + mirrored, first + second, atol=1e-5)
        single = [s(jt.array(f[i : i + 1])).numpy() for i, s in enumerate(alone)]
        np.testing.assert_allclose(out, np.concatenate(single), atol=1e-6)


def test_the_noise_of_pytorch(golden):
    z = golden("ddfm/sampler.npz")
    noise = TorchNoise(3407).normal((1, 3, 32, 64))
    np.testing.assert_allclose(noise, z["x_T"], rtol=0, atol=1e-6)
    # sizes that are no multiple of 16 draw their last 16 values afresh
    rest = TorchNoise(3407).normal((1, 3, 7, 5)).ravel()
    np.testing.assert_array_equal(rest[:80], noise.ravel()[:80])
    assert abs(rest[96:]).max() > 0 and np.isfinite(rest).all()
    with pytest.raises(ValueError, match="16"):
        TorchNoise(0).normal((3, 5))
