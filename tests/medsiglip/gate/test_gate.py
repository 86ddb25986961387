"""Gates on made clouds: distances and sets by hand, coverage on fresh draws, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import betabinom
from sklearn.covariance import LedoitWolf

from medsiglip.gate.files import gate_for, read_gate, write_gate
from medsiglip.gate.fit import fit_gate
from medsiglip.gate.gate import ACCEPTED, UNLIKE, Gate, Kind
from medsiglip.gate.shift import shift, shift_in_words

KINDS = (Kind("chest X-ray", "X-ray", "chest"), Kind("head CT", "CT", "head"), Kind("chest CT", "CT", "chest"))


def cloud(kind, num, seed, width=6):
    """(num, width) pictures around one corner a kind."""
    random = np.random.default_rng([seed, kind])
    return (random.normal(size=(num, width)) * np.linspace(0.5, 2, width) + 12 * np.eye(width)[kind]).astype(np.float32)


def fitted(num=200, seed=0, per_patient=1):
    vectors = np.concatenate([cloud(kind, num, seed) for kind in range(3)])
    names = np.repeat([kind.name for kind in KINDS], num).tolist()
    groups = [f"patient {i // per_patient}" for i in range(len(names))]
    return fit_gate(vectors, names, groups, kinds=KINDS, encoder="e", pixels="p", site="here")


# Values


def test_distances_p_values_and_sets_by_hand():
    """Two kinds on a line, 0 and 10, unit covariance; own distances 1, 2, 3 and 1, 1, 2."""
    gate = Gate(
        KINDS[:2], np.array([[0, 0], [10, 0]], np.float32), np.eye(2, dtype=np.float32),
        (np.array([1.0, 2, 3]), np.array([1.0, 1, 2])), "e", "p",
    )  # fmt: skip
    picture = np.array([[2, 0], [8.5, 0], [0, 50]], np.float32)
    np.testing.assert_allclose(gate.distances(picture[:2]), [[2, 8], [8.5, 1.5]])
    np.testing.assert_allclose(gate.p_values(picture), [[0.75, 0.25], [0.25, 0.5], [0.25, 0.25]])
    found = gate.judge(picture, level=0.6)
    assert [verdict.kinds for verdict in found] == [("chest X-ray",), ("head CT",), ()]
    assert [verdict.decision for verdict in found] == [ACCEPTED, ACCEPTED, UNLIKE]
    assert found[1].nearest == KINDS[1] and found[1].distance == 1.5 and found[1].p == 0.5
    assert found[0].nearest == KINDS[0] and found[0].distance == 1  # 2, and the middle one of its own is 2
    np.testing.assert_allclose(gate.own_relative_distances(), [0.5, 1, 1.5, 1, 1, 2])
    assert gate.judge(picture, level=0.8)[2].kinds == ("chest X-ray", "head CT")  # too few to leave any out
    assert gate.cannot_exclude(0.8) == ["chest X-ray (3 pictures, 4 needed)", "head CT (3 pictures, 4 needed)"]
    assert gate.cannot_exclude(0.75) == []


def test_a_picture_of_another_kind_than_asked_for_is_named():
    gate = fitted()
    one_each = np.stack([gate.means[place] for place in range(3)])
    by_name, by_modality, by_part = (gate.judge(one_each, made_for=[n]) for n in ("head CT", "CT", "chest"))
    assert [v.decision for v in by_name] == [
        "abstained: like chest X-ray, not like head CT", ACCEPTED, "abstained: like chest CT, not like head CT",
    ]  # fmt: skip
    assert [v.accepted for v in by_modality] == [False, True, True]
    assert [v.accepted for v in by_part] == [True, False, True]
    with pytest.raises(ValueError, match="knows no 'fundus photograph', only chest X-ray; head CT; chest CT; fit one"):
        gate.judge(one_each, made_for=["chest X-ray", "fundus photograph"])


def test_the_distance_is_mahalanobis_over_ledoit_and_wolf():
    vectors = np.concatenate([cloud(kind, 100, 0) for kind in range(3)])
    names = np.repeat([kind.name for kind in KINDS], 100)
    measuring = np.arange(300) % 2 == 1
    groups = [str(i) for i in range(300)]
    gate = fit_gate(
        vectors, names.tolist(), groups, kinds=KINDS, encoder="", pixels="", calibrating=measuring
    )  # fmt: skip
    placed = {kind.name: vectors[(names == kind.name) & ~measuring].astype(float) for kind in KINDS}
    centred = np.concatenate([points - points.mean(axis=0) for points in placed.values()])
    precision = LedoitWolf(assume_centered=True).fit(centred).precision_
    expected = [mahalanobis(vectors[1], points.mean(axis=0), precision) for points in placed.values()]
    np.testing.assert_allclose(gate.distances(vectors[1:2])[0], expected, rtol=1e-4)
    own = vectors[(names == "head CT") & measuring]
    np.testing.assert_allclose(gate.own_distances[1], np.sort(gate.distances(own)[:, 1]))


# Promises


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_fresh_pictures_of_a_kind_have_it_in_their_set_within_the_limits_of_chance(level):
    """Of m fresh pictures after n own: beta-binomial, the law of the number covered. 99.9 % limits."""
    gate, num = fitted(), 500
    for place, own in enumerate(gate.own_distances):
        n, missed = len(own), int((len(own) + 1) * (1 - level) + 1e-9)
        verdicts = gate.judge(cloud(place, num, seed=1), level)
        covered = sum(KINDS[place].name in verdict.kinds for verdict in verdicts)
        low, high = betabinom.interval(0.999, num, n + 1 - missed, missed)
        assert low <= covered <= high


def test_what_is_unlike_all_is_held_back():
    verdicts = fitted().judge(cloud(4, 50, seed=2))
    assert [verdict.decision for verdict in verdicts] == [UNLIKE] * 50


def test_one_patient_is_never_in_both_halves():
    """A patient's pictures lie far from everybody's: in both halves he would make his own calibration too wide."""
    vectors = np.concatenate([cloud(0, 40, 0), np.tile(cloud(4, 1, 0), (20, 1))])
    names, groups = ["chest X-ray"] * 60, [str(i) for i in range(40)] + ["outlier"] * 20
    gate = fit_gate(vectors, names, groups, kinds=KINDS[:1], encoder="", pixels="")
    far = (gate.own_distances[0] > np.median(gate.own_distances[0]) * 2).sum()
    assert far in (0, 20)


def test_a_shift_is_told_and_none_is_not():
    gate = fitted()
    same = np.concatenate([cloud(kind, 60, seed=3) for kind in range(3)])
    none, some = shift(gate, same), shift(gate, same + np.float32(1.5))
    assert none is not None and some is not None and none.ci95.low < 0.5 < some.ci95.low
    assert shift_in_words(gate, none).startswith("no shift from here seen")
    assert shift_in_words(gate, some).startswith("a shift from here: ")
    assert shift(gate, same[:9]) is None and "10 are needed" in shift_in_words(gate, None)


def test_slices_of_one_file_do_not_count_as_independent():
    gate = fitted()
    repeated = np.repeat(cloud(0, 20, seed=4), 30, axis=0)
    files = np.repeat(np.arange(20), 30).astype(str).tolist()
    clustered, naive = shift(gate, repeated, files), shift(gate, repeated)
    assert clustered.value == naive.value and clustered.standard_error > 2 * naive.standard_error


# Files


def test_written_and_read_judge_alike(tmp_path):
    gate, pictures = replace(fitted(), figures={"coverage": 0.9}), cloud(1, 20, seed=5)
    write_gate(gate, tmp_path / "new" / "gate.safetensors")
    again = read_gate(tmp_path / "new" / "gate.safetensors")
    assert again.judge(pictures) == gate.judge(pictures)
    assert (again.kinds, again.site, again.figures) == (gate.kinds, "here", {"coverage": 0.9})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["gate.safetensors"]


def test_a_gate_of_another_encoder_or_other_pixels_is_refused(tmp_path):
    path = tmp_path / "gate.safetensors"
    write_gate(fitted(), path)
    assert gate_for(str(path), tmp_path, "e", "p").site == "here"
    with pytest.raises(ValueError, match="a gate of the encoder e, not of other; fit it again"):
        gate_for(str(path), tmp_path, "other", "p")
    with pytest.raises(ValueError, match="a gate of the pixels p, not of percentile; give it that --policy"):
        gate_for(str(path), tmp_path, "e", "percentile")
    with pytest.raises(ValueError, match="no gate ships with this encoder; fit one"):
        gate_for("auto", tmp_path, "e", "p")


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_what_is_no_gate_is_refused(tmp_path, damage):
    from safetensors.numpy import save

    path = tmp_path / "gate.safetensors"
    path.write_bytes(save({"means": np.zeros((1, 2))}) if damage is None else damage)
    with pytest.raises(ValueError, match=r"gate.safetensors: no gate \(.*; write one with medsiglip gate-fit"):
        read_gate(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["chest X-ray"] * 3}, "got 4 vectors, 3 kinds, 4 groups"),
        ({"names": ["chest X-ray"] * 3 + ["ultrasound"]}, "got the kind 'ultrasound'; expected one of chest X-ray"),
        ({"groups": ["same"] * 4}, "has too few groups"),
        ({"vectors": np.full((4, 2), np.nan, np.float32)}, "vectors with NaN or infinity"),
        ({"vectors": np.full((4, 2), 0.5**0.5, np.float32)}, "all alike, so their spread is not known"),
    ],
)
def test_faults_of_the_table_are_refused(change, message):
    given = {"vectors": np.eye(4, 2, dtype=np.float32), "names": ["chest X-ray"] * 4, "groups": list("abcd")} | change
    with pytest.raises(ValueError, match=message):
        fit_gate(**given, kinds=KINDS[:1], encoder="", pixels="")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 3), np.float32), r"shape \(1, 3\), expected \(N, 6\)"),
        (np.full((1, 6), np.nan), "NaN or infinity"),
    ],
)
def test_vectors_that_cannot_be_judged_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        fitted().judge(vectors)


def test_no_level_is_refused():
    with pytest.raises(ValueError, match="level 95 is not between 0 and 1; give a share such as 0.95"):
        fitted().judge(cloud(0, 1, 0), level=95)
