"""The estimators in scikit-learn's own hands: pipelines, clones, grouped cross-validation, its calibration."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from medsiglip.probe import LinearProbe
from medsiglip.probing.estimators import PictureEmbedder, ProbeEstimator, ZeroShotEstimator
from medsiglip.prompts import LabelSet
from medsiglip.zero_shot import ZeroShotClassifier
from tests.medsiglip.test_probe import blobs

LABELS = LabelSet.of_labels(["nodule", "fracture", "mild edema"])


def test_pictures_to_zero_shot_labels_in_a_pipeline(encoder, arrays):
    pipeline = make_pipeline(PictureEmbedder(encoder), ZeroShotEstimator(encoder, LABELS)).fit(arrays)
    expected = ZeroShotClassifier(encoder, LABELS).classify(arrays)
    order = [expected.labels.index(label) for label in pipeline.classes_]
    np.testing.assert_allclose(pipeline.predict_proba(arrays), expected.probabilities[:, order], atol=1e-6)
    best = [expected.labels[place] for place in expected.probabilities.argmax(axis=1)]
    assert pipeline.predict(arrays).tolist() == best


@pytest.mark.parametrize("classes", [("class 0", "class 1", "class 2"), (0, 1, 2)])
def test_a_probe_takes_any_labels_and_says_what_the_linear_probe_says(classes):
    vectors, names, groups = blobs(3, distance=1.0)
    given = [classes[int(name[-1])] for name in names]
    estimator = clone(ProbeEstimator()).fit(vectors, given, groups)
    expected = LinearProbe.fit(vectors, names, groups)
    np.testing.assert_allclose(estimator.predict_proba(vectors), expected.predict_probabilities(vectors), atol=1e-6)
    assert estimator.classes_.tolist() == list(classes) and set(estimator.predict(vectors).tolist()) == set(classes)


def test_scikit_learn_cross_validates_and_calibrates_it():
    vectors, names, groups = blobs(2, distance=2.0)
    said = cross_val_predict(ProbeEstimator(), vectors, names, groups=groups, cv=GroupKFold(3))
    assert (said == np.array(names)).mean() > 0.8
    calibrated = CalibratedClassifierCV(ProbeEstimator(), cv=3).fit(vectors, names)
    np.testing.assert_allclose(calibrated.predict_proba(vectors).sum(axis=1), 1)


def test_what_is_not_fitted_is_refused():
    with pytest.raises(NotFittedError):
        ProbeEstimator().predict(np.zeros((1, 2)))
