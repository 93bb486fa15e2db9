"""The run folder, and runs and checkpoints made at commit cf2d833, before names changed."""

from __future__ import annotations

import csv
import json
import lzma
import shutil

import numpy as np
import pytest

import jfusion
from jfusion import config as configs
from jfusion.data.h5 import PairFile
from jfusion.data.image import read_rgb
from jfusion.errors import UserError
from jfusion.files import protecting_inputs
from jfusion.fusing.method import Method
from jfusion.inference import find_checkpoint, fuse_pair, open_checkpoint
from jfusion.runs import NullRun, Run
from jfusion.systems.registry import RENAMED_SYSTEMS, config_class
from jfusion.train.options import Options
from jfusion.train.setup import present_record, resume
from tests.conftest import GOLDEN

OLD = GOLDEN / "runs"
PAIRS = OLD / "data/PET_train.h5"
RUNS = ("film", "cddfuse", "diffusion", "lfdt", "fccf")


def content(epoch, batch=0):
    return {"model": {"w": np.ones(3, np.float32)}, "epoch": epoch, "batch": batch}


# ---- the folder


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    folders = {Run.new(tmp_path, "film", "Set", {}).folder for _ in range(3)}
    assert len(folders) == 3


def test_a_run_keeps_the_sources_and_its_record(tmp_path):
    made = Run.new(tmp_path / "exp", "film", "Set", {"system": "film"})
    assert (made.folder / "code/jfusion/runs.py").is_file()
    assert (made.folder / "code/jfusion/systems/film/system.py").is_file()
    largest = max(f.stat().st_size for f in made.folder.glob("code/**/*") if f.is_file())
    assert largest < 1 << 20, "weights have no place in each run's snapshot"
    assert Run.open(made.folder).record == {"system": "film"}
    with pytest.raises(UserError, match="not a run folder"):
        Run.open(tmp_path)
    (made.folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        Run.open(made.folder)


def test_checkpoints_are_ordered_and_an_epoch_removes_those_inside_it(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    for epoch, batch in ((9, 0), (10, 0), (10, 2), (10, 11)):
        run.save(content(epoch, batch))
    names = [path.stem for path in run.checkpoints()]
    assert names == ["ckpt_9", "ckpt_10", "ckpt_10_2", "ckpt_10_11"]
    assert run.latest()["batch"] == 11
    run.save(content(11))
    assert [path.stem for path in run.checkpoints()] == ["ckpt_9", "ckpt_10", "ckpt_11"]


@pytest.mark.parametrize(
    "use",
    [
        lambda run: run.latest()["epoch"],
        lambda run: Method.find(str(run.folder), None).content["epoch"],
        lambda run: open_checkpoint(run.folder.parent)[1]["epoch"],
        lambda run: int(find_checkpoint(run.folder).stem[-1]),
    ],
    ids=["resume", "fuse", "test", "the path"],
)
def test_every_command_takes_the_checkpoint_before_a_damaged_one(use, tmp_path, capsys):
    run = Run.new(tmp_path, "film", "Set", {"system": "film"})
    assert run.latest() is None
    first, newest = run.save(content(1)), run.save(content(2))
    newest.write_bytes(newest.read_bytes()[:-40])
    assert use(run) == 1
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "ckpt_2" in line]
    assert note.startswith("note: ") and f"; {first.name}, the one before it, is used" in note


def test_a_run_is_not_started_anew_over_checkpoints_that_cannot_be_read(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    for epoch in (1, 2):
        path = run.save(content(epoch))
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"no checkpoint of .* can be read"):
        run.latest()


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("[]", "names no system"),
        ("{}", "names no system"),
        ('{"system": 5}', "system must be a text, not 5"),
        ('{"system": "film", "config": []}', r"config must be a mapping, not \[\]"),
        ('{"system": ["\\u001b[2J"]}', r"not \['\\x1b"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_record_of_wrong_values_is_one_line(tmp_path, record, text):
    (tmp_path / "config.json").write_text(record)
    with pytest.raises(UserError, match=text):
        Run.open(tmp_path)


def test_one_process_at_a_time_trains_a_run_and_none_through_a_link(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    other = Run(run.folder, {})
    with run.locked(), pytest.raises(UserError, match="trained by another process"):
        with other.locked():
            pass
    with other.locked():
        pass
    outside = tmp_path / "outside.csv"
    outside.write_text("mine")
    (run.folder / "metrics.csv").symlink_to(outside)
    with pytest.raises(UserError, match=r"metrics\.csv is a link"), run.locked():
        pass


def test_the_log_takes_new_columns_and_drops_lost_steps(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    run.start_log(0)
    run.log(1, "one", {"total": 3.0})
    run.log(2, "two", {"total": 1.0})
    run.log(3, "three", {"total": 2.0, "ssim": 0.5})
    run.close()
    assert run.best_epoch("total", [1, 1, 1]) == 2
    assert run.best_epoch("total", [2]) == 1 and run.best_epoch("total", []) is None
    run.start_log(2)
    run.close()
    table = (run.folder / "metrics.csv").read_text().splitlines()
    assert table == ["step,total,ssim", "1,3,", "2,1,"]
    assert (run.folder / "log.txt").read_text() == "1\tone\n2\ttwo\n"


def test_after_each_epoch_only_the_new_rows_of_the_log_are_read(tmp_path, monkeypatch):
    read = []
    reader = csv.reader

    def counted(lines):
        return reader(read.append(line) or line for line in lines)

    run = Run.new(tmp_path, "film", "Set", {})
    run.start_log(0)
    monkeypatch.setattr(csv, "reader", counted)
    for epoch in range(1, 9):
        for step in range(5 * epoch - 4, 5 * epoch + 1):
            values = {"total": 10.0 / step} | ({"ssim": 1.0} if epoch > 6 else {})
            run.log(step, "", values)
        read.clear()
        assert run.best_epoch("total", [5] * epoch) == epoch
        # the names of the columns, and the rows; all of them where the columns have changed
        assert len(read) == 1 + (5 if epoch != 7 else 35)
        fresh = Run(run.folder, {}).scalars()
        assert all(np.array_equal(run.scalars()[k], fresh[k], equal_nan=True) for k in fresh)
    run.close()


@pytest.mark.parametrize("broken", ["metrics.csv", "log.txt"])
@pytest.mark.parametrize("content", [b"1,\xff\n2,3\n", None])
def test_no_log_is_changed_when_one_of_them_cannot_be_read(tmp_path, broken, content):
    run = Run.new(tmp_path, "film", "Set", {})
    whole = run.folder / ({"metrics.csv", "log.txt"} - {broken}).pop()
    whole.write_text("1\tone\n2\ttwo\n")
    if content is None:
        (run.folder / broken).mkdir()
    else:
        (run.folder / broken).write_bytes(content)
    with pytest.raises(UserError, match=f"the run's log .*{broken}"):
        run.start_log(1)
    assert whole.read_text() == "1\tone\n2\ttwo\n"


def test_the_rows_of_a_log_keep_their_line_ends(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    (run.folder / "metrics.csv").write_bytes(b"step,total\n1,3\r\n\xc2\xb2,0\n2,3\r\n3,")
    with protecting_inputs():
        run.start_log(1)
        run.log(2, "two", {"total": 1.0, "ssim": 0.5})
    run.close()
    table = (run.folder / "metrics.csv").read_bytes()
    assert table == b"step,total,ssim\n1,3,\r\n\xc2\xb2,0,\n2,1,0.5\r\n"


def test_names_that_are_no_numbers_of_ours_are_no_checkpoints(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    for name in ("ckpt_\u00b2.pkl", "ckpt_\u0663.pkl", "ckpt_.pkl", "ckpt_7.pkl"):
        (run.folder / "model" / name).touch()
    assert [path.name for path in run.checkpoints()] == ["ckpt_7.pkl"]


def test_a_record_without_data_asks_for_them(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {"system": "film", "config": {}, "options": {}})
    with pytest.raises(UserError, match=r"config\.json: the options name no data; .*--data"):
        resume(run.folder)


def test_images_are_written_side_by_side(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    run.save_images(1, "x", [np.full((4, 5), v, np.uint8) for v in (0, 128, 255)])
    row = read_rgb(run.folder / "pic_fusion/ckpt_1/x.png")
    assert row.shape == (4, 15, 3) and row[0, ::5, 0].tolist() == [0, 128, 255]


def test_a_null_run_reads_and_writes_nothing(tmp_path):
    run = Run.new(tmp_path, "film", "Set", {})
    run.save(content(1))
    before = sorted(run.folder.rglob("*"))
    null = NullRun(run.folder, run.record)
    null.start_log(0)
    null.log(1, "line", {"total": 1.0})
    null.save(content(2))
    null.save_images(1, "x", [np.zeros((2, 2), np.uint8)])
    null.prune(1)
    null.close()
    assert null.best_epoch("total", [1]) is None and null.latest()["epoch"] == 1
    assert sorted(run.folder.rglob("*")) == before


# ---- runs of commit cf2d833


@pytest.fixture
def old_run(tmp_path):
    """old_run("film") -> a run folder of that commit, its checkpoint unpacked."""

    def unpack(name):
        folder = tmp_path / name
        shutil.copytree(OLD / name, folder, ignore=shutil.ignore_patterns("*.npz"))
        for packed in (folder / "model").iterdir():
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
            packed.unlink()
        return folder

    return unpack


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_resumes_with_the_losses_that_it_would_have_had(name, old_run, golden):
    data = PAIRS.parent if name == "fccf" else PAIRS
    run = resume(old_run(name), data=str(data), max_steps=4)
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) > 2]
    expected = golden(f"runs/{name}/expected.npz")
    columns = [key.removeprefix("log/") for key in expected.files if key.startswith("log/")]
    assert sorted(rows[0]) == sorted(columns)
    for column in columns:
        values = [float(row[column] or "nan") for row in rows]
        np.testing.assert_allclose(values, expected[f"log/{column}"], rtol=2e-5, err_msg=column)
    latest = run.latest()
    assert latest["step"] == 4 and latest["system"] == RENAMED_SYSTEMS.get(name, name)
    assert latest["config"]["crop"] == json.loads((OLD / name / "config.json").read_text())[
        "options"
    ].get("crop")
    again = resume(run.folder, data=str(data), max_steps=5)
    assert again.latest()["step"] == 5


@pytest.mark.parametrize("name", RUNS)
def test_an_old_checkpoint_fuses_as_it_did(name, old_run, golden):
    settings = {"diffusion": {"timestep_respacing": "2"}, "fccf": {"group": "pet"}}
    system = jfusion.load(old_run(name), **settings.get(name, {}))
    assert system.name == RENAMED_SYSTEMS.get(name, name)
    pair, expected = PairFile(PAIRS).read("p"), golden(f"runs/{name}/expected.npz")
    a, b = (x[None] for x in system.preprocess(pair))
    text = pair.text[None] if system.reads_text else None
    # Diff-FCCF's rounding grows along its chain: single pixels by 2e-3 (tests/golden/fccf/README.md)
    bound = 2e-3 if system.name == "fccf" else 2e-5
    np.testing.assert_allclose(system.fuse(a, b, text), expected["fused"], atol=bound)
    image, old = fuse_pair(system, pair)[0].image, expected["image"].astype(int)
    # colors that are too strong for their brightness were cut at 0 and 255; now their saturation is lowered
    shown = (old % 255 > 0).all(-1) if old.ndim == 3 else np.full(old.shape, True)
    assert abs(image[shown] - old[shown]).max() <= 1 and shown.mean() > 0.1


def test_old_configurations_are_understood():
    for name, values in json.loads((OLD / "configs.json").read_text()).items():
        cls = config_class(RENAMED_SYSTEMS.get(name, name))
        made = configs.to_dict(configs.from_dict(cls, values, name))
        same = {k: v for k, v in configs.renamed(cls, values).items() if k in made}
        assert {key: made[key] for key in same} == same


def test_old_records_have_their_crop_and_groups_in_the_right_place():
    options = {"data": "x.h5", "crop": [8, 8], "pictures": 3}
    record = {"system": "fccf", "config": {"group": "pet,gfp,pet"}, "options": options}
    present = present_record(record)
    assert present["config"] == {"group": "auto", "crop": [8, 8]}
    made = configs.from_dict(Options, present["options"])
    assert made.schedule == "pet,gfp,pet" and made.images == 3
    assert record["config"] == {"group": "pet,gfp,pet"}
    assert present_record({**record, "system": "diffusion", "config": {}})["system"] == "ddfm"
    with pytest.raises(UserError, match="has no config and no options"):
        present_record({"system": "film"})
    assert present_record(present) == present
