"""Models saved as artifacts: the same logits, bit for bit, with the weights inside or in the checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

import deepseek
from deepseek import ArtifactError, InputError, Model
from deepseek.artifact import Artifact
from deepseek.errors import CheckpointError
from deepseek.names import find_model
from deepseek.package import Package

IDS = [504, 3575, 282, 4649, 314]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained("smollm2-135m", context=64)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.dsc"
    written = []
    model.save(path, progress=lambda done, total: written.append((done, total)))
    assert written == sorted(written) and written[-1] == (path.stat().st_size,) * 2
    return path


def test_a_saved_model_gives_the_same_logits(model, saved, tmp_path):
    external = tmp_path / "external.dsc"
    model.save(external, external_weights=True)
    assert external.stat().st_size < saved.stat().st_size / 10
    assert Artifact(external).external_files == [str(find_model("smollm2-135m").resolve())]
    expected = model.logits(IDS)
    for path in (saved, external):
        loaded = deepseek.load(path)
        np.testing.assert_array_equal(loaded.logits(IDS), expected)
        assert (loaded.compile_s, loaded.cache_hit, loaded.info) == (0.0, True, model.info)
        assert loaded.generate("The capital of France is", 3).text == " Paris.\n"


def test_a_saved_model_is_saved_again(saved, tmp_path):
    package = Package.open(saved)
    package.save(tmp_path / "again.dsc")
    assert (tmp_path / "again.dsc").read_bytes() == saved.read_bytes()
    with pytest.raises(InputError, match="only a model that was compiled from a checkpoint"):
        package.save(tmp_path / "again.dsc", external_weights=True)


def test_decisions_of_an_artifact_are_fixed(saved):
    for option, text in (
        ({"precision": "f32"}, "precision as-stored, but f32 is asked for"),
        ({"target": "cpu:x86-64-v3"}, "target cpu:native, but cpu:x86-64-v3 is asked for"),
        ({"all_logits": True}, "all_logits False, but True is asked for"),
    ):
        with pytest.raises(InputError, match=text):
            Model.from_pretrained(saved, **option)
    with pytest.raises(InputError, match="context is 9000, expected 1 to 8192"):
        Model.from_pretrained(saved, context=9000)
    assert Model.from_pretrained(saved, context=7).context == 7


def test_what_is_no_model_is_refused(saved, tmp_path):
    parts = {"text": Artifact(saved).text, "object": Artifact(saved).object, "manifest": Artifact(saved).manifest}
    deepseek.artifact.write(tmp_path / "program.dsc", **parts)
    with pytest.raises(ArtifactError, match="holds a program, not a language model"):
        Model.from_pretrained(tmp_path / "program.dsc")
    deepseek.artifact.write(tmp_path / "bare.dsc", **parts, model=Artifact(saved).model)
    with pytest.raises(ArtifactError, match="holds no weights: compile the model itself, or add --checkpoint MODEL"):
        deepseek.load(tmp_path / "bare.dsc")
    weights = Artifact(saved).weights
    deepseek.artifact.write(tmp_path / "mute.dsc", **parts, model=Artifact(saved).model, weights=weights)
    mute = Model.from_pretrained(tmp_path / "mute.dsc")
    assert mute.generate(IDS, 3).new_ids == [7042, 30, 198]
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        mute.generate("text")


def test_embedding_is_for_encoders(model):
    with pytest.raises(InputError, match="is a decoder, expected an encoder"):
        model.embed("text")
