import pytest

from medsiglip.prompts import LabelSet, label_set, read_label_set, task_names

HISTOPATHOLOGY = {
    "breast-cancer": 3, "breast-nuclear-pleomorphism": 3, "breast-tubule-formation": 3, "cervical-dysplasia": 3,
    "prostate-needle-core-biopsy": 4, "radical-prostatectomy": 4, "tcga-study-types": 10, "tissue-types": 16,
}  # fmt: skip


# What ships


def test_the_report_s_findings_are_13_with_82_prompts():
    findings = label_set("chest-xray-findings")
    texts = [text for sides in (findings.prompts, findings.absent) for group in sides.values() for text in group]
    assert (len(findings.labels), len(texts)) == (13, 82)
    assert not [name for name in findings.labels if set(findings.prompts[name]) & set(findings.absent[name])]
    assert findings.prompts["lung opacity"][1] == "basal opacity" and findings.made_for == ("chest X-ray",)


def test_the_report_s_other_sets_have_its_classes():
    assert {name: len(label_set(name).labels) for name in HISTOPATHOLOGY} == HISTOPATHOLOGY
    assert len(label_set("dermatology").labels) == 79
    assert label_set("dermatology").prompts["SK/ISK"] == ("SK/ISK",)
    assert label_set("diabetic-retinopathy").prompts["Proliferative DR"] == (
        "diabetic retinopathy severity: proliferative.",
    )


@pytest.mark.parametrize("name", task_names())
def test_every_set_that_ships_names_its_source_and_its_convention(name):
    found = label_set(name)
    assert found.source and found.name == name
    assert found.convention == ("present against absent" if name == "chest-xray-findings" else "softmax")


@pytest.mark.kit
def test_every_prompt_that_ships_fits_the_real_tokenizer(shapes):
    from transformers import SiglipTokenizer

    from medsiglip.encoder import text_inputs

    tokenizer = SiglipTokenizer.from_pretrained(shapes("medsiglip hub"))
    for name in task_names():
        found = label_set(name)
        texts = [text for sides in (found.prompts, found.absent) for group in sides.values() for text in group]
        assert text_inputs(tokenizer, texts)["input_ids"].shape == (len(texts), 64)


# A user's own file


def test_a_file_is_read_by_its_convention(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("convention: sigmoid\nmade_for: chest X-ray\nlabels:\n  a:\n  b: one prompt\n  1: [x, y]\n")
    found = read_label_set(path)
    assert found == LabelSet(
        "own", "sigmoid", {"a": ("a",), "b": ("one prompt",), "1": ("x", "y")}, {}, ("chest X-ray",)
    )


def test_the_hash_is_of_convention_and_prompts_alone():
    one = LabelSet("one", "softmax", {"a": ("x", "y"), "b": ("z",)})
    assert LabelSet("other", "softmax", {"a": ("x", "y"), "b": ("z",)}, {}, ("CT",), "me").sha256 == one.sha256
    others = [
        LabelSet("one", "sigmoid", {"a": ("x", "y"), "b": ("z",)}),
        LabelSet("one", "softmax", {"a": ("x",), "b": ("y", "z")}),
        LabelSet("one", "softmax", {"b": ("z",), "a": ("x", "y")}),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: [", "no valid YAML"),
        ("- a\n- b", "got list, expected the keys convention and labels"),
        ("labels: {a: x}", "convention is None; use one of softmax, sigmoid, present against absent"),
        ("convention: argmax\nlabels: {a: x}", "convention is 'argmax'; use one of softmax"),
        ("convention: softmax\nlabel: {a: x}", "unknown key 'label'; use convention, labels"),
        ("convention: softmax\nlabels: [a, b]", "labels is list; expected labels with their prompts below them"),
        ("convention: softmax\nlabels: {a: []}", "label 'a': got .*; expected a list of non-empty texts"),
        ("convention: softmax\nlabels: {a: ['']}", "label 'a': got .*; expected a list of non-empty texts"),
        ("convention: softmax\nlabels:\n  a: x\n  b: y\n  a: z", "'a' is given twice"),
        ("convention: softmax\nlabels: {a: {present: x, absent: y}}", "label 'a': got .*expected a list"),
        ("convention: present against absent\nlabels: {a: [x]}", "label 'a': give the two lists present and absent"),
        ("convention: present against absent\nlabels: {a: {present: x}}", "give the two lists present and absent"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"own.yaml: .*{message}"):
        read_label_set(path)


def test_another_convention_does_not_replace_prompts():
    findings = label_set("chest-xray-findings")
    with pytest.raises(ValueError, match="own: is by softmax, chest-xray-findings by present against absent"):
        findings.with_prompts_of(LabelSet("own", "softmax", {"edema": ("x",)}))
