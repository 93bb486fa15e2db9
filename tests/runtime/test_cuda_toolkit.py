"""Finding a CUDA toolkit, and making of it what Jittor wants; without a GPU and without CUDA."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jfusion.errors import UserError
from jfusion.runtime import cuda_toolkit, environment, machine

LAYOUTS = {
    13: {"cu13": ("cudart.so.13", "cublas.so.13", "cublasLt.so.13", "cufft.so.12", "curand.so.10",
                  "cusparse.so.12"), "cudnn": ("cudnn.so.9",)},
    12: {"cuda_runtime": ("cudart.so.12",), "cublas": ("cublas.so.12", "cublasLt.so.12"),
         "cufft": ("cufft.so.11",), "curand": ("curand.so.10",), "cusparse": ("cusparse.so.12",),
         "cudnn": ("cudnn.so.8",)},
}  # fmt: skip


def make_nvcc(folder, version):
    """A compiler that prints its version and its folder."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    nvcc.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) echo "Cuda compilation tools, release {version}, V{version}.1";; esac\n'
        f'echo "#$ TOP={folder}" >&2\n'
    )
    nvcc.chmod(0o755)
    return nvcc


@pytest.fixture
def make_machine(tmp_path, monkeypatch):
    """machine(nvcc's version, packages of which CUDA) -> the nvcc; a GPU is here."""
    monkeypatch.setattr(machine, "gpu_count", lambda: 1)
    monkeypatch.setattr(cuda_toolkit, "SYSTEM", tmp_path / "usr")
    cuda_toolkit.probe.cache_clear()

    def make(version, *packages, own=()):
        for major in packages:
            for name, libraries in LAYOUTS[major].items():
                folder = tmp_path / "site" / "nvidia" / name
                (folder / "lib").mkdir(parents=True, exist_ok=True)
                (folder / "include").mkdir(exist_ok=True)
                for library in libraries:
                    (folder / "lib" / f"lib{library}").write_text(f"{name} {library}")
                if name == "cudnn":
                    number = libraries[0].split(".")[-1]
                    header = folder / "include" / "cudnn_version.h"
                    header.write_text(f"#define CUDNN_MAJOR {number}\n#define CUDNN_MINOR 1\n")
        found = sorted((tmp_path / "site" / "nvidia").glob("*"))
        monkeypatch.setattr(cuda_toolkit, "packages", lambda: found)
        home = tmp_path / "toolkit"
        nvcc = make_nvcc(home, version)
        (home / "lib64").mkdir()
        for name in own:
            (home / "lib64" / f"lib{name}.so").write_text("own")
        monkeypatch.setenv("nvcc_path", str(nvcc))
        monkeypatch.setattr(machine, "cache_home", lambda: tmp_path / "cache")
        return nvcc

    return make


def test_a_toolkit_that_jittor_takes_is_used_as_it_is(make_machine, tmp_path):
    nvcc = make_machine("12.2", own=cuda_toolkit.LIBRARIES)
    assert machine.cuda() == (str(nvcc), "")
    assert not (tmp_path / "cache").exists()


def test_the_packages_of_cuda_13_become_one_folder(make_machine):
    make_machine("13.0", 12, 13)
    path, why_off = machine.cuda()
    assert not why_off
    home = Path(path).parents[1]
    made = {p.name: p.read_text() for p in (home / "lib64").iterdir()}
    assert made["libcublas.so"] == made["libcublas.so.13"] == "cu13 cublas.so.13"
    assert made["libcudart.so"] == "cu13 cudart.so.13"
    assert "libcublas.so.12" not in made  # those of the other CUDA are ignored
    assert "NPP_MAX_64U" in (home / "include" / "npp.h").read_text()
    assert (home / "include" / "cudnn_version.h").is_file()
    cuda_toolkit.probe.cache_clear()
    assert cuda_toolkit.probe(Path(path)).release == (13, 0)  # the script in it runs the real one
    assert machine.cuda()[0] == path  # made again, the same


def test_libraries_of_packages_beside_a_toolkit_of_cuda_12(make_machine):
    make_machine("12.2", 12)
    path, why_off = machine.cuda()
    assert not why_off
    made = Path(path).parents[1] / "lib64" / "libcudnn.so"
    assert made.read_text() == "cudnn cudnn.so.8"


def test_packages_are_found_everywhere_on_pythons_path(tmp_path, monkeypatch):
    for place in ("one/nvidia/cu13", "two/nvidia/cudnn", "two/nvidia/cu13"):
        (tmp_path / place / "lib").mkdir(parents=True)
    (tmp_path / "two/nvidia/__init__.py").touch()
    path = [str(tmp_path / "two"), "", str(tmp_path / "one"), str(tmp_path / "two")]
    monkeypatch.setattr("sys.path", path)
    found = [str(p.relative_to(tmp_path)) for p in cuda_toolkit.packages()]
    assert found == ["two/nvidia/cu13", "two/nvidia/cudnn", "one/nvidia/cu13"]


def test_a_gpu_computes_in_true_float32_unless_asked(make_machine, monkeypatch):
    make_machine("13.0", 13)
    monkeypatch.delenv("JFUSION_PRECISION", raising=False)
    assert environment.environment()["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.setenv("JFUSION_PRECISION", "tf32")
    assert environment.environment()["NVIDIA_TF32_OVERRIDE"] == "1"
    machine.check_precision()
    monkeypatch.setenv("JFUSION_PRECISION", "half")
    with pytest.raises(UserError, match="half is none of float32, tf32, bfloat16"):
        machine.check_precision()
    monkeypatch.setenv("JFUSION_PRECISION", "bfloat16")
    machine.check_precision()
    monkeypatch.setenv("nvcc_path", "")
    assert "NVIDIA_TF32_OVERRIDE" not in environment.environment()
    with pytest.raises(UserError, match="bfloat16 is for a GPU, and CUDA is off"):
        machine.check_precision()


def test_bfloat16_needs_jittors_convolutions_adapted(make_machine, monkeypatch):
    make_machine("12.1", 12)
    monkeypatch.setenv("JFUSION_PRECISION", "bfloat16")
    with pytest.raises(UserError, match=r"needs CUDA 12\.3 or later, not CUDA 12\.1"):
        machine.check_precision()


@pytest.mark.parametrize(
    "version, packages, said",
    [
        ("13.0", (), "lacks cudart, cublas, .*; remedy: pip install -r requirements-cuda13.txt"),
        ("12.1", (13,), "lacks .*; remedy: pip install -r requirements-cuda12.txt"),
        ("13.6", (13,), r"jfusion works with CUDA 10.0 to 13.5"),
        ("9.2", (), r"jfusion works with CUDA 10.0 to 13.5"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(make_machine, version, packages, said):
    make_machine(version, *packages)
    path, why_off = machine.cuda()
    assert path == "" and "\n" not in why_off
    assert re.search(said, why_off), why_off


def test_the_user_can_stay_on_the_cpu(make_machine, monkeypatch):
    make_machine("13.0", 13)
    monkeypatch.setenv("nvcc_path", "")
    assert machine.cuda() == ("", "")


def test_without_a_gpu_nothing_is_made(make_machine, monkeypatch, tmp_path):
    make_machine("13.0", 13)
    monkeypatch.setattr(machine, "gpu_count", lambda: 0)
    monkeypatch.setattr(cuda_toolkit, "probe", None)  # and no compiler is asked
    path, why_off = machine.cuda()
    assert path == "" and "no GPU or no driver" in why_off
    assert not (tmp_path / "cache").exists()


def test_a_compiler_that_does_not_run_is_named(tmp_path, monkeypatch):
    cuda_toolkit.probe.cache_clear()
    monkeypatch.setenv("nvcc_path", str(tmp_path / "nvcc"))
    monkeypatch.setattr(machine, "gpu_count", lambda: 1)
    assert "does not run" in machine.cuda()[1]


def test_the_doctor_names_the_toolkit_and_what_was_patched(make_machine):
    from jfusion.commands import doctor

    make_machine("13.0", 13)
    label, text, remedy = doctor._cuda()
    assert label == "CUDA" and text.startswith("CUDA 13.0 with cuDNN 9 at ") and not remedy
    assert "compiler.py patched: CUDA 13's CCCL" in text
