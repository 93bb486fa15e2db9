"""Data sets as they are downloaded: each row of the table on a tiny tree, and what is not recognized."""

from __future__ import annotations

import pytest

from jfusion.data.layouts import LAYOUTS, open_data_set
from jfusion.errors import UserError


def tree(root, *paths):
    """Files of the given paths below a folder, each with its own path as its bytes."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return root


# layout -> the folder's name, its files, and what is recognized: name, task, {split: [(name, A, B)]}
TREES = {
    "MSRS": (
        "MSRS-main",
        [
            "train/ir/1D.png",
            "train/vi/1D.png",
            "test/ir/2N.png",
            "test/vi/2N.png",
            "train/seg/1D.png",
        ],
        ("MSRS", "IVF"),
        {
            "train": [("1D", "train/ir/1D.png", "train/vi/1D.png")],
            "test": [("2N", "test/ir/2N.png", "test/vi/2N.png")],
        },
    ),
    "LLVIP": (
        "LLVIP",
        [
            f"{side}/{split}.jpg"
            for side in ("infrared", "visible")
            for split in ("train/1", "test/2")
        ],
        ("LLVIP", "IVF"),
        {
            "train": [("1", "infrared/train/1.jpg", "visible/train/1.jpg")],
            "test": [("2", "infrared/test/2.jpg", "visible/test/2.jpg")],
        },
    ),
    "M3FD": (
        "M3FD_Fusion",
        ["Ir/00000.png", "Vis/00000.png", "Annotation/00000.xml"],
        ("M3FD", "IVF"),
        {"all": [("00000", "Ir/00000.png", "Vis/00000.png")]},
    ),
    "RoadScene": (
        "downloads",
        ["cropinfrared/x.jpg", "crop_LR_visible/x.jpg", "infrared/x.jpg", "crop_HR_visible/x.jpg"],
        ("RoadScene", "IVF"),
        {"all": [("x", "cropinfrared/x.jpg", "crop_LR_visible/x.jpg")]},
    ),
    "FMB": (
        "FMB",
        ["train/Infrared/1.png", "train/Visible/1.png", "train/Label/1.png"],
        ("FMB", "IVF"),
        {"train": [("1", "train/Infrared/1.png", "train/Visible/1.png")]},
    ),
    "VIFB": (
        "VIFB-master",
        ["input/IR/a.jpg", "input/VI/a.jpg", "output/GTF/a.jpg"],
        ("VIFB", "IVF"),
        {"all": [("a", "input/IR/a.jpg", "input/VI/a.jpg")]},
    ),
    "TNO": (
        "test_img",
        ["TNO/ir/01.png", "TNO/vi/01.png"],
        ("TNO", "IVF"),
        {"test": [("01", "TNO/ir/01.png", "TNO/vi/01.png")]},
    ),
    "Harvard_CT": (
        "AANLIB",
        ["MR-T2/010.gif", "CT/010.gif"],
        ("Harvard_CT", "MIF"),
        {"all": [("010", "MR-T2/010.gif", "CT/010.gif")]},
    ),
    "Harvard_PET": (
        "Harvard",
        ["MRI_PET/MRI/11.png", "MRI_PET/PET/11.png"],
        ("Harvard_PET", "MIF"),
        {"test": [("11", "MRI_PET/MRI/11.png", "MRI_PET/PET/11.png")]},
    ),
    "Harvard_SPECT": (
        "harvard-images",
        ["SPECT-MRI/train/MRI/11.png", "SPECT-MRI/train/SPECT/11.png"],
        ("Harvard_SPECT", "MIF"),
        {"train": [("11", "SPECT-MRI/train/MRI/11.png", "SPECT-MRI/train/SPECT/11.png")]},
    ),
    "SICE": (
        "SICE",
        [*(f"2/{i}.JPG" for i in range(1, 11)), "Label/2.JPG"],
        ("SICE", "MEF"),
        {"all": [("2", "2/10.JPG", "2/1.JPG")]},
    ),
    "MEFB": (
        "MEFB-master",
        [
            "input/Arno/Arno_A.png",
            "input/Arno/Arno_B.png",
            "input/507/507_b.tif",
            "input/507/507_a.tif",
        ],
        ("MEFB", "MEF"),
        {
            "test": [
                ("507", "input/507/507_b.tif", "input/507/507_a.tif"),
                ("Arno", "input/Arno/Arno_B.png", "input/Arno/Arno_A.png"),
            ]
        },
    ),
    "RealMFF": (
        "data",
        ["imageA/012_A.png", "imageB/012_B.png", "Fusion/012_F.png"],
        ("RealMFF", "MFF"),
        {"all": [("012", "imageA/012_A.png", "imageB/012_B.png")]},
    ),
    "Lytro": (
        "CMFDataset",
        ["lytro-01-A.jpg", "lytro-01-B.jpg"],
        ("Lytro", "MFF"),
        {"test": [("lytro-01", "lytro-01-A.jpg", "lytro-01-B.jpg")]},
    ),
    "MFI-WHU": (
        "MFI-WHU-master",
        ["MFI-WHU/source_1/1.jpg", "MFI-WHU/source_2/1.jpg", "MFI-WHU/full_clear/1.jpg"],
        ("MFI-WHU", "MFF"),
        {"all": [("1", "MFI-WHU/source_1/1.jpg", "MFI-WHU/source_2/1.jpg")]},
    ),
    "LFDT-Fusion, Diff-FCCF or CDDFuse IVF": (
        "dataset",
        ["train/VI-IR/ir/1.png", "train/VI-IR/vi/1.png"],
        ("VI-IR", "IVF"),
        {"train": [("1", "train/VI-IR/ir/1.png", "train/VI-IR/vi/1.png")]},
    ),
    "LFDT-Fusion, Diff-FCCF or CDDFuse MIF": (
        "fccf",
        ["train/GFP/t/1.png", "train/GFP/g/1.png"],
        ("GFP", "MIF"),
        {"train": [("1", "train/GFP/t/1.png", "train/GFP/g/1.png")]},
    ),
    "LFDT-Fusion, Diff-FCCF or CDDFuse MEF": (
        "dataset",
        ["test/MEF/MEF/over/336.png", "test/MEF/MEF/under/336.png"],
        ("MEF", "MEF"),
        {"test": [("336", "test/MEF/MEF/over/336.png", "test/MEF/MEF/under/336.png")]},
    ),
    "LFDT-Fusion, Diff-FCCF or CDDFuse MFF": (
        "dataset",
        ["train/MFF/source_1/1.png", "train/MFF/source_2/1.png"],
        ("MFF", "MFF"),
        {"train": [("1", "train/MFF/source_1/1.png", "train/MFF/source_2/1.png")]},
    ),
    "LFDT-Fusion, Diff-FCCF or CDDFuse NIR": (
        "dataset",
        ["train/VIS-NIR/NIR/1.png", "train/VIS-NIR/VI/1.png"],
        ("VIS-NIR", "NIR"),
        {"train": [("1", "train/VIS-NIR/NIR/1.png", "train/VIS-NIR/VI/1.png")]},
    ),
    "LFDT-Fusion, Diff-FCCF or CDDFuse PIF": (
        "dataset",
        ["train/PIF/DoLP/1.png", "train/PIF/S0/1.png"],
        ("PIF", "PIF"),
        {"train": [("1", "train/PIF/DoLP/1.png", "train/PIF/S0/1.png")]},
    ),
    "two folders": (
        "campus",
        ["thermal/1.png", "rgb/1.png"],
        ("campus", "IVF"),
        {"all": [("1", "thermal/1.png", "rgb/1.png")]},
    ),
}


def found(folder, **options):
    return open_data_set("VLFDataset", folder=str(folder), **options)


def pairs(data, folder):
    """{split: [(name, A, B)]}, the files relative to the folder."""
    return {
        split: [(s.name, *(p.relative_to(folder).as_posix() for p in (s.a, s.b))) for s in samples]
        for split, samples in data.splits.items()
    }


@pytest.mark.parametrize("layout", TREES)
def test_a_layout_is_recognized(tmp_path, layout):
    name, files, what, expected = TREES[layout]
    folder = tree(tmp_path / name, *files, ".hidden/1.png", "__MACOSX/ir/1.png")
    data = found(folder)
    assert (data.name, data.task) == what and pairs(data, folder) == expected
    assert layout.removesuffix(f" {data.task}") in data.why and data.name in data.why


def test_every_row_of_the_table_has_a_tree():
    rows = {f"{row.name} {row.task}" if " or " in row.name else row.name for row in LAYOUTS}
    assert rows == set(TREES)


def test_a_layout_of_one_data_set_serves_others_by_their_own_name(tmp_path):
    files = [f"{side}/train/1.png" for side in ("infrared", "visible")]
    data = found(tree(tmp_path / "campus", *files))
    assert data.name == "campus" and "the layout of LLVIP" in data.why


def test_a_folder_of_ones_own_in_a_known_layout_keeps_its_own_name(tmp_path):
    folder = tree(tmp_path / "campus", "train/ir/1.png", "train/vi/1.png")
    data = found(folder)
    assert data.name == "campus"
    assert str(data.samples("train")[0].text) == "VLFDataset/TextFeature/IVF/campus/1.npy"
    assert found(folder, name="mine").name == "mine"


def test_one_split_of_a_download_is_recognized_by_its_folder(tmp_path):
    tree(
        tmp_path / "MSRS-main", "train/ir/1.png", "train/vi/1.png", "test/ir/2.png", "test/vi/2.png"
    )
    data = found(tmp_path / "MSRS-main/train")
    assert data.name == "MSRS-main" and list(data.splits) == ["train"]


def test_of_several_data_sets_one_is_chosen_by_name(tmp_path):
    names = ("TNO/ir", "TNO/vi", "MRI_CT/MRI", "MRI_CT/CT")
    folder = tree(tmp_path / "test_img", *(f"{name}/1.png" for name in names))
    with pytest.raises(UserError, match=r"2 data sets: MRI_CT \(MIF\), TNO \(IVF\); choose one"):
        found(folder)
    assert found(folder, name="MRI_CT").task == "MIF"
    assert found(folder, task="IVF").name == "TNO"
    with pytest.raises(UserError, match="did you mean 'MRI_CT'"):
        found(folder, name="MRI_CTT")


def test_one_mri_folder_with_two_others_is_two_data_sets(tmp_path):
    folder = tree(tmp_path / "brains", "MRI/1.gif", "CT/1.gif", "PET/1.gif")
    with pytest.raises(UserError, match=r"brains_MRI-CT \(MIF\), brains_MRI-PET \(MIF\)"):
        found(folder)
    (pair,) = found(folder, name="brains_MRI-PET").samples("all")
    assert pair.b.parent.name == "PET"


def test_a_name_in_two_splits_begins_with_its_split(tmp_path):
    files = [
        f"{s}/{m}/{n}.png" for s in ("train", "test") for m in ("ir", "vi") for n in (1, 10, 2)
    ]
    data = found(tree(tmp_path / "mine", *files))
    assert [s.name for s in data.samples("test")] == ["test_1", "test_2", "test_10"]
    assert len(data.samples("all")) == 6 and "begins with its split" in data.why


def test_names_that_differ_are_paired_by_number_and_a_lone_image_is_left_out(tmp_path, capsys):
    data = found(tree(tmp_path / "x", "ir/1.png", "ir/2.png", "vi/VIS1.png", "vi/VIS2.png"))
    assert [(s.name, s.b.name) for s in data.samples("all")] == [
        ("1", "VIS1.png"),
        ("2", "VIS2.png"),
    ]
    data = found(tree(tmp_path / "y", "ir/1.png", "ir/2.png", "vi/1.png"))
    assert [s.name for s in data.samples("all")] == ["1"]
    assert "1 image without a partner left out: 2" in capsys.readouterr().out


def test_list_files_next_to_two_folders_are_its_splits(tmp_path):
    folder = tree(tmp_path / "x", *(f"{m}/{n}.png" for m in ("ir", "vi") for n in "123"))
    (folder / "train.txt").write_text("2.png\n1\n")
    (folder / "test.txt").write_text("3.png\n")
    data = found(folder)
    assert [s.name for s in data.samples("train")] == ["2", "1"]
    assert [s.name for s in data.samples("test")] == ["3"]
    assert data.why.endswith("split by the lists there: 2 train and 1 test")


def test_a_list_of_something_else_is_named_and_left_alone(tmp_path):
    folder = tree(tmp_path / "x", "ir/1.png", "vi/1.png")
    (folder / "train.txt").write_text("street 12\n")
    data = found(folder)
    assert len(data.samples("all")) == 1
    assert data.why.endswith("train.txt is not used: 'street 12' in it is no pair")


def test_two_images_of_one_name_are_refused(tmp_path):
    folder = tree(tmp_path / "x", "ir/1.png", "ir/1.jpg", "vi/1.png")
    with pytest.raises(UserError, match=r"two images called '1': ir/1.jpg and ir/1.png"):
        found(folder)


def test_an_unknown_folder_is_listed_with_the_nearest_layout(tmp_path, capsys):
    folder = tree(tmp_path / "x", "infrarot/train/1.png", "visibel/train/2.jpg", "readme.txt")
    with pytest.raises(UserError, match=r"nearest is that of LLVIP .*--a FOLDER --b FOLDER"):
        found(folder)
    printed = capsys.readouterr().out
    assert "infrarot/train/  1 .png" in printed and "visibel/train/  1 .jpg" in printed


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folder": "nowhere"}, "does not exist; correct its name"),
        ({"folder": "our"}, "does not exist; did you mean 'ours'"),
        ({"folder": None}, "VLFDataset holds no data set; name one: --from FOLDER"),
        ({"folder": "."}, "holds no image"),
        ({"folder": "ours"}, "--root ours --task TASK --dataset NAME"),
        ({"folder": "MSRS.zip"}, "is a file; unpack it"),
        ({"a": "ir"}, "both --a and --b"),
        ({"a": "ir", "b": "vi"}, "need --task"),
        ({"folder": ".", "dataset": "MSRS"}, "--name says what to call"),
        ({"name": "x"}, "--name is for --from"),
        ({"folder": ".", "task": "IVV"}, "did you mean 'IVF'"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, monkeypatch, options, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ours/Image/IVF").mkdir(parents=True)
    (tmp_path / "MSRS.zip").write_text("PK")
    with pytest.raises(UserError, match=text):
        open_data_set("VLFDataset", **options)


def test_any_two_folders_are_a_data_set(tmp_path):
    folder = tree(tmp_path / "site", "left/1.png", "right/1.png")
    a, b = str(folder / "left"), str(folder / "right")
    data = open_data_set("R", task="MFF", a=a, b=b)
    assert (data.name, data.task, len(data.samples("all"))) == ("site", "MFF", 1)
    assert open_data_set("R", task="MFF", a=a, b=b, name="z").samples("all")[0].text.parts[-2:] == (
        "z",
        "1.npy",
    )
