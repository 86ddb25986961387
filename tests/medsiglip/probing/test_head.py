"""Heads: scikit-learn as the oracle, saved and loaded, and what is refused."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medsiglip.probe import LinearProbe
from medsiglip.probing.head import fit_head, read_head, write_head
from tests.medsiglip.test_probe import blobs


def made(num_classes=3):
    vectors, names, groups = blobs(num_classes, distance=2.0)
    labels = sorted(set(names))
    return vectors, np.array([[name == label for label in labels] for name in names], float), groups, labels


def rings(num=300, seed=0):
    """A disc inside a ring: no line tells them apart."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(num, 2))
    inside = (np.linalg.norm(points, axis=1) < 1.1).astype(float)
    return points.astype(np.float32), np.stack([inside, 1 - inside], 1), [str(i) for i in range(num)]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_linear_head_of_exclusive_labels_is_the_linear_probe(num_classes):
    vectors, truth, groups, labels = made(num_classes)
    head = fit_head(vectors, truth, groups, labels, exclusive=True)
    probe = LinearProbe.fit(vectors, [labels[place] for place in truth.argmax(1)], groups)
    assert (head.labels, head.strengths) == (probe.classes, (probe.strength,))
    np.testing.assert_allclose(
        head.classify_vectors(vectors).probabilities, probe.predict_probabilities(vectors), atol=1e-6
    )


def test_independent_labels_learn_from_what_is_said_of_each():
    vectors, truth, groups, labels = made()
    truth[::2, 0] = np.nan
    head = fit_head(vectors, truth, groups, labels, exclusive=False)
    said = np.isfinite(truth[:, 0])
    names = ["01"[int(cell)] for cell in truth[said, 0]]
    alone = LinearProbe.fit(vectors[said], names, [g for g, s in zip(groups, said, strict=True) if s])
    found = head.classify_vectors(vectors)
    np.testing.assert_allclose(found.probabilities[:, 0], alone.predict_probabilities(vectors)[:, 1], atol=1e-6)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-found.logits)), atol=1e-6)
    assert found.convention == "sigmoid"


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_network_learns_what_no_line_can(exclusive):
    vectors, truth, groups = rings()
    fresh, answers, _ = rings(seed=1)
    auroc = {}
    for kind in ("linear", "mlp"):
        head = fit_head(vectors, truth, groups, ["in", "out"], exclusive=exclusive, kind=kind)
        said = head.classify_vectors(fresh).probabilities[:, head.labels.index("in")]
        auroc[kind] = roc_auc_score(answers[:, 0], said)
    assert auroc["linear"] < 0.7 < 0.95 < auroc["mlp"]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_network_is_scikit_learn_s_with_its_scaling_folded_in(num_classes):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from medsiglip.probing.head import _mlp

    vectors, truth, groups, labels = made(num_classes)
    head = fit_head(vectors, truth, groups, labels, exclusive=True, kind="mlp")
    names = [labels[place] for place in truth.argmax(1)]
    peer = make_pipeline(StandardScaler(), _mlp(head.strengths[0], 0)).fit(vectors.astype(float), names)
    np.testing.assert_allclose(
        head.classify_vectors(vectors).probabilities, peer.predict_proba(vectors.astype(float)), atol=1e-4
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_saved_and_loaded_say_the_same_without_the_training_data(tmp_path, kind, exclusive):
    vectors, truth, groups, labels = made()
    head = fit_head(vectors, truth, groups, labels, exclusive=exclusive, kind=kind, encoder="e", pixels="p")
    write_head(head, tmp_path / "new" / "probe")
    again = read_head(tmp_path / "new" / "probe")
    assert (again.labels, again.exclusive, again.encoder, again.pixels) == (head.labels, exclusive, "e", "p")
    np.testing.assert_allclose(
        again.classify_vectors(vectors).probabilities, head.classify_vectors(vectors).probabilities, atol=1e-5
    )
    assert {path.name for path in (tmp_path / "new" / "probe").iterdir()} == {"probe.json", "probe.safetensors"}


def test_another_encoder_other_pixels_other_widths_and_nan_are_refused():
    vectors, truth, groups, labels = made()
    head = fit_head(vectors, truth, groups, labels, exclusive=True, encoder="e", pixels="p")
    head.check("e", "p")
    with pytest.raises(ValueError, match="the probe is of the encoder e, not of other; fit it again"):
        head.check("other", "p")
    with pytest.raises(ValueError, match="the probe is of the pixels p, not of q; give it that --policy"):
        head.check("e", "q")
    with pytest.raises(ValueError, match=r"shape \(2, 5\), expected \(N, 8\): another encoder's"):
        head.classify_vectors(np.zeros((2, 5)))
    with pytest.raises(ValueError, match="vectors with NaN or infinity"):
        head.classify_vectors(np.full((2, 8), np.nan))


def test_a_label_that_cannot_be_learned_is_named():
    vectors, truth, groups, labels = made()
    truth[:, 1] = 0
    with pytest.raises(ValueError, match="class 1: got 1 classes; a probe needs two"):
        fit_head(vectors, truth, groups, labels, exclusive=False)


@pytest.mark.parametrize(
    "edit", [lambda f: (f / "probe.json").write_text("{"), lambda f: (f / "probe.safetensors").unlink()]
)
def test_a_damaged_probe_is_refused(tmp_path, edit):
    vectors, truth, groups, labels = made()
    write_head(fit_head(vectors, truth, groups, labels, exclusive=True), tmp_path)
    edit(tmp_path)
    with pytest.raises(ValueError, match=r"no probe \(.*; write one with medsiglip probe"):
        read_head(tmp_path)
