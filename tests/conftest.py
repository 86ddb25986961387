"""Fixtures shared by every room's tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.personal_data_watch import pytest_configure as pytest_configure  # the search for patient data

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

ROOT = Path(__file__).parents[1]


def kit_folder() -> Path:
    """Where the real-data kit should be."""
    return Path(os.environ.get("MEDGEMMA_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Class vectors that tests keep lie in a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of the real-data kit; its absence skips a test, or fails it under MEDGEMMA_REQUIRE=1."""
    folder = kit_folder()
    if not (folder / "INDEX.md").is_file():
        message = f"the real-data kit is not at {folder}; set MEDGEMMA_DATA to its folder"
        if os.environ.get("MEDGEMMA_REQUIRE") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    """Makes the folder of a shape when it is first asked for, once for all workers; see `tests.hub_shapes`.

    Decoders: "nano", "hub", "nano saved", "hub saved". Encoders: the same with "medsiglip " before it; those of the
    Hub's shape need the kit.
    """
    from tests import hub_shapes

    # beside the folder that is searched for patient data: a tokenizer's vocabulary holds names
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    root = tmp_path_factory.getbasetemp().parent / f"hub-shapes-{os.getpid() if alone else 'shared'}"
    root.mkdir(exist_ok=True)

    def made(shape: str, out: Path) -> None:
        encoder = shape.startswith("medsiglip")
        if shape.endswith(" saved"):
            hub_shapes.saved_by_transformers(folder(shape.removesuffix(" saved")), out)
        elif encoder:
            hub_shapes.medsiglip_folder(out, request.getfixturevalue("kit") / "medsiglip-tokenizer")
        else:
            hub_shapes.medgemma_folder(out)

    def folder(shape: str) -> Path:
        if shape in ("nano", "medsiglip nano"):
            return hub_shapes.ENCODER if shape == "medsiglip nano" else hub_shapes.DECODER
        out = root / shape.replace(" ", "-")
        with FileLock(f"{out}.lock"):
            if not out.is_dir():
                unfinished = out.with_name(out.name + ".partial")
                made(shape, unfinished)
                unfinished.rename(out)
        return out

    yield folder
    if alone:
        shutil.rmtree(root)
