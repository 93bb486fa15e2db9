"""The adaptations of Jittor's sources: they fit the installed ones, and touch a copy alone."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import pytest

from jfusion.errors import UserError
from jfusion.runtime import cuda_patches
from jfusion.runtime.cuda_toolkit import Toolkit

INSTALLED = Path(metadata.distribution("jittor").locate_file("jittor"))


def made(release, cudnn):
    return Toolkit(Path("/nvcc"), release, cudnn, (), ())


@pytest.mark.parametrize("release", [(10, 2), (11, 8), (12, 2)])
def test_up_to_cuda_12_2_with_cudnn_8_nothing_is_needed(release):
    assert cuda_patches.needed(made(release, 8)) == []


def test_later_cudas_and_cudnn_9_need_what_is_theirs():
    def files(release, cudnn):
        return {a.file.split("/")[-1] for a in cuda_patches.needed(made(release, cudnn))}

    conv = ("conv", "conv_backward_x", "conv_backward_w")
    all_later = {"cufft_fft_op.cc", *(f"cudnn_{name}_op.cc" for name in conv)}
    assert files((12, 4), 8) == all_later
    assert files((12, 4), 9) == all_later | {"compile_extern.py"}
    assert files((12, 8), 8) == all_later | {"compiler.py"}  # for RTX 50
    assert set(cuda_patches.needed(made((12, 8), 9))) < set(cuda_patches.needed(made((13, 0), 9)))
    assert all(a.reason for a in cuda_patches.PATCHES)


def hashes(folder):
    return {
        p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "__pycache__" not in p.parts
    }


def test_a_copy_is_adapted_and_the_installed_package_is_not(tmp_path):
    before = hashes(INSTALLED)
    copy = cuda_patches.patched(INSTALLED, tmp_path, made((13, 0), 9))
    assert hashes(INSTALLED) == before
    after = hashes(copy / "jittor")
    changed = {str(p) for p in before if after[p] != before[p]}
    assert changed == {a.file for a in cuda_patches.PATCHES} and after.keys() == before.keys()
    for file in changed:
        if file.endswith(".py"):
            compile((copy / "jittor" / file).read_text(), file, "exec")
    text = (copy / "jittor" / "compiler.py").read_text()
    assert "-std=c++14 -fPIC" not in text and "max_arch = 121" in text
    assert cuda_patches.patched(INSTALLED, tmp_path, made((13, 0), 9)) == copy
    assert [p.name for p in tmp_path.iterdir()] == [copy.name]  # nothing half-made stays


def test_other_sources_than_expected_are_refused(tmp_path):
    strange = tmp_path / "jittor"
    for change in cuda_patches.PATCHES:
        (strange / change.file).parent.mkdir(parents=True, exist_ok=True)
        (strange / change.file).write_text("something else")
    (tmp_path / "home").mkdir()
    with pytest.raises(UserError, match=r"is not that of Jittor 1.3.11.0"):
        cuda_patches.patched(strange, tmp_path / "home", made((13, 0), 9))
    assert not list((tmp_path / "home").iterdir())
