"""The contract of a system: what `fuse` accepts and refuses, for a method without networks and with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import jfusion
from jfusion.errors import UserError
from jfusion.systems.base import System
from jfusion.systems.film.config import TINY

RNG = np.random.default_rng(0)
A, B = RNG.integers(0, 256, (2, 16, 16), dtype=np.uint8)
COLOR = np.stack([B, B // 2, 255 - B], -1)
TEXT = RNG.standard_normal((1, 3, 8)).astype(np.float32)


class Average(System):
    """The mean of both images."""

    def _fuse(self, a, b, text, seed, callback):
        return (a + b) / 2


@pytest.fixture(scope="module", params=["average", "film"])
def system(request):
    return Average() if request.param == "average" else jfusion.create("film", **TINY)


def text_for(system):
    return TEXT if system.reads_text else None


def test_one_pair_of_every_kind_gives_the_same_image(system):
    text = text_for(system)
    expected = system.fuse(A, B, text)
    assert expected.shape == A.shape and expected.dtype == np.uint8
    assert (system.fuse(A[..., None], B, text) == expected).all()
    assert (np.asarray(system.fuse(Image.fromarray(A), Image.fromarray(B), text)) == expected).all()
    (listed,) = system.fuse([A], [B], text)
    assert (listed == expected).all()


def test_color_comes_from_the_source_that_has_it(system):
    text = text_for(system)
    for pair in ((A, COLOR), (COLOR, A)):
        fused = system.fuse(*pair, text)
        assert fused.shape == COLOR.shape and (fused[..., 0] != fused[..., 2]).any()
    assert isinstance(system.fuse(Image.fromarray(A), Image.fromarray(COLOR), text), Image.Image)


def test_floating_point_and_vars_stay_what_they_are(system):
    from jfusion.runtime import jt

    text, unit = text_for(system), [x[None, None] / np.float32(255) for x in (A, B)]
    fused = system.fuse(*unit, text)
    assert fused.shape == (1, 1, 16, 16) and fused.dtype == np.float32
    assert system.fuse(unit[0][0, 0], unit[1][0, 0], text).shape == (16, 16)
    vars_ = [jt.array(x) for x in unit]
    features = None if text is None else jt.array(text)
    out = system.fuse(*vars_, features)
    assert isinstance(out, jt.Var)
    np.testing.assert_array_equal(out.numpy(), fused)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (A, B[:8], "the images are 16x16 and 8x16; both must have one size"),
        ([A, A], [B], "a holds 2 images and b 1"),
        (A.astype(np.float32), B, "a holds float32 values from 0 to 255; pass uint8"),
        (A.astype(np.int32), B, "int32 values"),
        (np.full((1, 1, 16, 16), np.inf), B[None, None] / 255, "a has values that are not finite"),
        (
            A[None, None] / 255,
            COLOR.transpose(2, 0, 1)[None] / 255,
            "needs b with 1 channel, not 3",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(system, a, b, said):
    with pytest.raises(UserError, match=said) as refused:
        system.fuse(a, b, text_for(system))
    assert "\n" not in str(refused.value)


def test_a_system_that_reads_text_says_what_is_missing():
    film = jfusion.create("film", **TINY)
    with pytest.raises(UserError, match="film needs paragraph features, and none were given"):
        film.fuse(A, B)
    with pytest.raises(UserError, match=r"do not fit 1 image and text_dim 8"):
        film.fuse(A[None, None] / 255, B[None, None] / 255, TEXT[..., :5])


def test_a_method_without_networks_needs_no_weights():
    assert not Average().needs_weights
    assert jfusion.create("film", **TINY).needs_weights


def test_repr_is_one_short_line(system):
    assert "\n" not in repr(system) and len(repr(system)) < 200
    assert str(system) == repr(system)


def test_a_system_can_be_registered_under_a_free_name():
    jfusion.register("blend", Average)
    jfusion.register("blend", Average)  # again: nothing changes
    assert isinstance(jfusion.create("blend"), Average)
    assert jfusion.create("blend").name == "blend"
    with pytest.raises(UserError, match="already"):
        jfusion.register("film", Average)


def test_a_result_that_is_not_finite_is_an_error():
    class Spoiled(System):
        """Gives NaN."""

        def _fuse(self, a, b, text, seed, callback):
            return a * np.float32("nan")

    with pytest.raises(UserError, match="gives NaN or infinite values for this pair"):
        Spoiled().fuse(A, B)
    film = jfusion.create("film", **TINY)
    with pytest.raises(UserError, match="paragraph features hold NaN"):
        film.fuse(A, B, np.full_like(TEXT, np.nan))


def test_a_weight_that_is_not_finite_is_named():
    film = jfusion.create("film", **TINY)
    state = film.state()
    state["decoder.reduce.bias"] = np.full_like(state["decoder.reduce.bias"], np.inf)
    with pytest.raises(UserError, match=r"the tensor decoder\.reduce\.bias holds NaN or infinite"):
        film.load_state(state, "checkpoint x.pkl")


def returning(result):
    """A system whose `_fuse` gives result(a)."""

    class Odd(System):
        def _fuse(self, a, b, text, seed, callback):
            return result(a)

    return Odd()


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda a: a + 1.5, "values from 1.5 to 2.5, not from 0 to 1"),
        (lambda a: (a * 255).astype(np.uint8), "gives uint8 of shape"),
        (lambda a: a * 1j, "gives complex64 of shape"),
        (lambda a: np.concatenate([a, a]), r"shape \[2, 1, 5, 6\] for 1 pair$"),
        (lambda a: a[:0], r"shape \[0, 1, 5, 6\] for 1 pair$"),
        (lambda a: a[..., :0], r"shape \[1, 1, 5, 0\] for 1 pair$"),
        (lambda a: a[0, 0], r"float32 of shape \[5, 6\]"),
        (lambda a: None, "gives NoneType"),
        (lambda a: a.tolist(), "gives list"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_result_that_is_no_image_is_an_error(result, said, dtype):
    a = np.linspace(0, 1, 30).reshape(5, 6)
    a = np.round(a * 255).astype(np.uint8) if dtype == np.uint8 else a.astype(dtype)
    with pytest.raises(UserError, match=said):
        returning(result).fuse(a, a)


def test_a_system_cannot_change_the_callers_images():
    a = np.full((1, 1, 3, 3), 0.5, np.float32)
    with pytest.raises(ValueError, match="read-only"):
        returning(lambda x: np.multiply(x, 0, out=x)).fuse(a, a)
    assert (a == 0.5).all()


@pytest.mark.parametrize("text", ["a road", 3, [[1, "x"]], {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_text_that_holds_no_features_is_one_sentence(text, dtype):
    a = np.zeros((5, 6), dtype)
    with pytest.raises(UserError, match=r"text must (hold the features|be \(N, L, D\))|do not fit"):
        jfusion.create("film", text_dim=8).fuse(a, a, text)


@pytest.mark.parametrize("name", ["", "--x", "../x", 3, None, "a b"])
def test_a_name_that_no_command_could_take_is_refused(name):
    with pytest.raises(UserError, match="cannot be the name of a system"):
        jfusion.register(name, Average)


@pytest.mark.parametrize("cls", [3, int, "module:Class", Average()])
def test_only_systems_are_registered(cls):
    with pytest.raises(UserError, match="is no subclass of"):
        jfusion.register("other", cls)


@pytest.mark.parametrize("name, least", [("cddfuse", 2), ("sfdfuse", 4), ("lfdt", 25)])
def test_an_image_that_is_too_small_is_refused_in_one_sentence(name, least):
    made, size = jfusion.create(name), (least - 1, least + 5)
    with pytest.raises(UserError, match=f"{least} pixels or more a side, not {size[0]}x{size[1]}"):
        made.fuse(*np.zeros((2, 1, 1, *size), np.float32))
