"""Several processes on MPI are one process with larger batches."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from jfusion import checkpoint
from jfusion.commands.preprocess import preprocess
from jfusion.data.h5 import PairFile
from jfusion.data.loader import DataLoader
from jfusion.errors import UserError
from jfusion.runtime import machine, mpi
from tests.commands.test_preprocess import make_dataset, options, random_pair
from tests.test_processes import MPIRUN, needs_mpi


@pytest.fixture
def data(tmp_path):
    make_dataset(tmp_path, {f"s{i}": random_pair(i, (40, 48)) for i in range(8)})
    return preprocess(options(tmp_path, text="zeros", size="native")).path


def test_the_parts_of_a_batch_are_the_batch(data):
    file, made = PairFile(data), {"crop": (16, 16), "augment": True}
    whole = list(DataLoader(file, 4, 1, **made).epoch(2))
    parts = [list(DataLoader(file, 2, 1, shard=(r, 2), **made).epoch(2)) for r in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.names == first.names + second.names
        np.testing.assert_array_equal(batch.a, np.concatenate([first.a, second.a]))


@pytest.mark.parametrize(
    "listed, rank, count, seen",
    [
        (None, 1, 2, "1"),
        ("3,GPU-5", 1, 2, "GPU-5"),
        ("3,GPU-5", 2, 3, ""),  # none is left for the third
        ("0,1", 0, 1, "0,1"),  # one process alone chooses for itself
    ],
)
def test_each_process_of_a_machine_sees_one_gpu(listed, rank, count, seen, monkeypatch):
    monkeypatch.setenv("JFUSION_GPU", "")  # monkeypatch takes away again what is set here
    monkeypatch.delenv("JFUSION_GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed or "")
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", str(rank))
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(count))
    for _ in range(2):  # asked again, nothing changes
        machine.choose_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_processes_that_share_gpus_are_refused():
    own, none = np.random.default_rng(0).integers(1, 256, (3, 16)), np.zeros((1, 16))
    mpi.check_names(own)
    mpi.check_names(np.repeat(none, 3, 0))
    with pytest.raises(UserError, match="3 processes share 2 GPUs"):
        mpi.check_names(own[[0, 1, 0]])
    with pytest.raises(UserError, match="4 processes and only 3 with a GPU; remedy: mpirun -np 3"):
        mpi.check_names(np.concatenate([own, none]))


@needs_mpi
def test_two_processes_train_as_one_with_twice_the_batch(data, tmp_path):
    small = "--width 16 --blocks 1 1 1 1 --inference-steps 2 --crop 32 32 --seed 3 --max-steps 1"
    train = [sys.executable, "-m", "jfusion", "train", "lfdt", "--data", str(data), *small.split()]
    mpi = [str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-np", "2"]
    one, two = tmp_path / "one", tmp_path / "two"
    for command in (
        [*train, "--exp", str(one), "--batch-size", "4"],
        [*mpi, *train, "--exp", str(two), "--batch-size", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy())
        assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(two.iterdir())) == 1  # only one of them writes
    single, both = (checkpoint.load(next(x.glob("*/model/*.pkl"))) for x in (one, two))
    for name, expected in single["model"].items():
        key = f"mean.{name}"
        if key not in single["optimizer"]["networks"]:  # running statistics
            np.testing.assert_allclose(both["model"][name], expected, rtol=1e-4, atol=1e-6)
            continue
        mean, found = (x["optimizer"]["networks"][key] for x in (single, both))
        if name.startswith("encoder.skips.") and name.endswith("conv.bias"):
            continue  # followed by a batch norm: its true gradient is zero, AdamW steps on rounding
        size = abs(mean).max()
        assert abs(found - mean).max() <= 2e-3 * size, name
        clear = (abs(mean) > 2e-2 * size).reshape(expected.shape)
        assert abs(both["model"][name] - expected)[clear].max(initial=0) < 1e-6, name
