"""The codec's command line on a user's own images, with tokenizers as their seed draws them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tokbench import build
from tokbench.codec import __main__ as codec
from tokbench.codec import exported as shelf
from tokbench.codec.exported import CONFIG, WEIGHTS, read_exported, write_exported
from tokbench.codec.images import image_to_indices, indices_to_image
from tokbench.data.decode import read_image
from tokbench.information.coding import HEADER_BYTES, fit_tables
from tokbench.metrics.images import to_float, to_uint8

SIZE = 16


def export(folder, quantizer="fsq", seed=0, **changes):
    """An exported tokenizer that was never trained, with the tables of noise."""
    config = build.compose(["budget=smoke", f"quantizer={quantizer}", f"seed={seed}"]) | changes
    torch.manual_seed(seed)
    tokenizer = build.construct(config["tokenizer"], quantizer=build.construct(config["quantizer"])).eval()
    images = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        tables = fit_tables(tokenizer.encode(images).indices, tokenizer.codebook_sizes)
    return write_exported(config, tokenizer, tables, size=SIZE, folder=folder), tokenizer


@pytest.fixture(scope="module")
def fsq(tmp_path_factory):
    return export(tmp_path_factory.mktemp("fsq"))[0]


@pytest.fixture
def photo(tmp_path):
    """A picture whose sides are no multiple of the factor: 37 wide, 22 high."""
    ramp = np.add.outer(np.arange(22), np.arange(37))[..., None] * np.array([4, 2, 1])
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def call(*arguments):
    return codec.main([str(argument) for argument in arguments])


def encoded(photo, folder):
    file = photo.with_suffix(".tok")
    assert call("encode", photo, file, "--tokenizer", folder) == 0
    return file


@pytest.mark.parametrize("quantizer", ["fsq", "vq_tuned", "lfq", "bsq", "simvq", "ibq", "rvq", "product", "vq_shifted"])
def test_an_exported_tokenizer_is_the_trained_one(quantizer, tmp_path):
    folder, tokenizer = export(tmp_path, quantizer)
    found = read_exported(folder)
    images = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        mine, theirs = found.tokenizer.encode(images), tokenizer.encode(images)
        assert torch.equal(mine.indices, theirs.indices)
        assert torch.equal(found.tokenizer.decode(mine.z_q), tokenizer.decode(theirs.z_q))


def test_encode_and_decode_give_what_the_tokenizer_gives_and_tell_the_rate(photo, fsq, capsys):
    file = encoded(photo, fsq)
    said = capsys.readouterr().out
    coded = file.stat().st_size - HEADER_BYTES
    assert f"{coded} bytes + {HEADER_BYTES} of header, {8 * coded / (37 * 22):.4f} bits per pixel" in said
    assert "dB" in said
    out = photo.with_name("out.png")
    assert call("decode", file, out, "--tokenizer", fsq) == 0
    tokenizer = read_exported(fsq).tokenizer
    padded = np.pad(read_image(photo).numpy(), ((0, 0), (0, 2), (0, 3)), mode="edge")
    with torch.no_grad():
        quantized = tokenizer.encode(to_float(torch.from_numpy(padded)[None]))
        expected = to_uint8(tokenizer.decode(quantized.z_q, (6, 10)))[0, :, :22, :37]
    assert torch.equal(read_image(out), expected)


@pytest.mark.parametrize("quantizer", ["fsq", "rvq"])
def test_a_wide_image_is_a_wide_grid(quantizer, tmp_path):
    exported = read_exported(export(tmp_path, quantizer)[0])
    image = torch.randint(256, (3, 8, 24), dtype=torch.uint8)
    indices = image_to_indices(image, exported)
    assert indices.shape == (12, len(exported.tables))
    found = indices_to_image(indices, exported, height=8, width=24)
    with torch.no_grad():
        z_q = exported.tokenizer.encode(to_float(image[None])).z_q
        assert torch.equal(found, to_uint8(exported.tokenizer.decode(z_q, (2, 6)))[0])


@pytest.mark.parametrize("mode", ["RGBA", "L", "I;16", "P", "LA"])
def test_common_kinds_of_png_are_taken(mode, tmp_path, fsq):
    path = tmp_path / f"{mode.replace(';', '')}.png"
    if mode == "I;16":
        Image.fromarray((np.arange(300).reshape(15, 20) * 200).astype(np.uint16)).save(path)
    else:
        Image.new("RGBA", (20, 15), (200, 30, 90, 128)).convert(mode).save(path)
    file = encoded(path, fsq)
    assert call("decode", file, tmp_path / "out.png", "--tokenizer", fsq) == 0
    assert read_image(tmp_path / "out.png").shape == (3, 15, 20)


def test_every_altered_byte_is_refused_and_nothing_is_written(photo, fsq, capsys):
    file = encoded(photo, fsq)
    whole, out = file.read_bytes(), photo.with_name("out.png")
    wrongs = [whole[:k] + bytes([whole[k] ^ 64]) + whole[k + 1 :] for k in range(len(whole))]
    for wrong in [*wrongs, whole[:-1], whole[:10], b"", whole + b"x"]:
        file.write_bytes(wrong)
        capsys.readouterr()
        assert call("decode", file, out, "--tokenizer", fsq) == 2
        assert str(file) in capsys.readouterr().err
    assert not out.exists()


def test_another_tokenizer_is_refused_by_both_names(photo, fsq, tmp_path, capsys):
    other, _ = export(tmp_path / "other", seed=1)
    file, out = encoded(photo, fsq), photo.with_name("out.png")
    assert call("decode", file, out, "--tokenizer", other) == 2
    said = capsys.readouterr().err
    assert read_exported(fsq).hash in said
    assert read_exported(other).hash in said
    assert not out.exists()


def test_the_shelf_gives_the_only_tokenizer_and_the_one_that_a_file_names(photo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shelf, "SHELF", tmp_path / "shelf")
    file, out = photo.with_suffix(".tok"), photo.with_name("out.png")
    assert call("encode", photo, file) == 2
    assert "export" in capsys.readouterr().err
    first, _ = export(None)
    assert first.parent == tmp_path / "shelf"
    assert call("encode", photo, file) == 0
    export(None, seed=1)
    assert call("decode", file, out) == 0
    assert call("encode", photo, file) == 2
    assert "holds 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encode", "missing.png", "out.tok"), "missing.png"),
        (("decode", "missing.tok", "out.png"), "missing.tok"),
    ],
)
def test_missing_files_are_named(arguments, message, fsq, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments, "--tokenizer", fsq) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_what_is_read(photo, fsq, capsys):
    before = photo.read_bytes()
    again = photo.parent / "." / photo.name
    assert call("encode", photo, again, "--tokenizer", fsq) == 2
    assert "must not be what is read" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_an_image_format_that_does_not_exist_is_named(photo, fsq, capsys):
    out = photo.with_name("out.nothing")
    assert call("decode", encoded(photo, fsq), out, "--tokenizer", fsq) == 2
    assert "out.nothing" in capsys.readouterr().err
    assert not out.exists()


def altered(folder, to, change):
    """A copy of the folder whose description was changed."""
    to.mkdir()
    (to / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    described = json.loads((folder / CONFIG).read_text())
    change(described)
    (to / CONFIG).write_text(json.dumps(described))
    return to


@pytest.mark.parametrize(
    "target",
    ["os.system", "tokbench.quantizers.vq.torch", "tokbench.tokenizers.autoencoder.nn.Linear", "tokbench.run.main", 3],
)
@pytest.mark.parametrize("place", ["tokenizer", "quantizer", "inner"])
def test_a_folder_cannot_name_code_to_run(target, place, fsq, tmp_path):
    def change(described):
        if place == "inner":
            described["quantizer"]["levels"] = [{"_target_": target}]
        else:
            described[place]["_target_"] = target

    with pytest.raises(ValueError, match="_target_ must be a class of"):
        read_exported(altered(fsq, tmp_path / "bad", change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("name"), "keys"),
        (lambda d: d.update(format=2), "format 1"),
        (lambda d: d.update(weights_sha256="0"), "not the file"),
        (lambda d: d["quantizer"].update(levels=[8, 5, 5]), "size mismatch"),
        (lambda d: d["quantizer"].update(levels=[5, 8, 5, 2, 5]), "bad/tokenizer.json"),
        (lambda d: d["quantizer"].update(wrong=1), "no argument 'wrong'"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(change, message, fsq, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_exported(altered(fsq, tmp_path / "bad", change))


def test_altered_weights_are_refused(fsq, tmp_path):
    bad = altered(fsq, tmp_path / "bad", lambda d: None)
    content = bytearray((bad / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bad / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="not the file"):
        read_exported(bad)


@pytest.mark.parametrize("quantizer", ["continuous_8", "patches", "pixels"])
def test_tokenizers_without_a_grid_of_codes_are_refused(quantizer, capsys, tmp_path):
    assert call("export", "--to", tmp_path / "x", "budget=smoke", "data.size=16", f"quantizer={quantizer}") == 2
    assert "the codec" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_export_trains_and_the_tables_are_those_of_the_training_split(tmp_path, capsys):
    overrides = ["budget=smoke", "data.size=16", f"cache_dir={tmp_path}"]
    assert call("export", "--to", tmp_path / "x", *overrides) == 0
    found = read_exported(tmp_path / "x")
    assert found.hash in capsys.readouterr().out
    from tokbench.job import prepare
    from tokbench.stages import trained_tokenizer

    job = prepare(build.compose([*overrides, "stage=tokenizer"]))
    tokenizer, _ = trained_tokenizer(job)
    with torch.no_grad():
        indices = tokenizer.encode(to_float(job.dataset.train.images)).indices
    assert np.array_equal(found.tables[0], fit_tables(indices, tokenizer.codebook_sizes)[0])
    assert found.tables[0].argmax() == torch.bincount(indices.flatten()).argmax()
