"""Several tuned versions of one base into one: task vectors averaged on the sphere, and a step back to the base.

WARP's second and third stage (Ramé et al., arXiv:2406.16768, §3.2 and §3.3). A task vector is what tuning has added to
the base's weights. Its direction is averaged and its length kept; LERP, the plain mean, shortens vectors that are far
apart. Only files are read: memory stays at one tensor.

Letters: M versions, θ weights, δ = θ - θ_base a task vector, Ω the angle between two.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import acos, pi, sin, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from medgemma.checkpoints.adapters.checks import CONFIG_FILE, refuse_added_tokens
from medgemma.checkpoints.adapters.merge import (
    WEIGHTS_FILE,
    Adapter,
    changes_tied,
    head_is_embeddings,
    read_adapter,
    summed,
    untied,
    with_head,
)
from medgemma.checkpoints.adapters.trained_on import refuse_other_base
from medgemma.checkpoints.convert import (
    Advance,
    common_dtype,
    copy_companions,
    planned_from,
    read_finite,
    stored_name,
    whole_folder,
)
from medgemma.checkpoints.layouts import TIED_HEADS, kind_of, matched_folder, write_config
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.safetensors_files import (
    MAX_SHARD_BYTES,
    PlannedTensor,
    StoredTensor,
    opened,
    torch_dtype,
    write_tensors,
)

NEARLY_PARALLEL = 1e-4
"""Radians from 0 or from π within which the sphere says nothing that the straight line does not."""
LAYER = re.compile(r"(.*\blayers\.\d+)\.")


class Slerped(NamedTuple):
    """What was averaged."""

    versions: int
    layers: int
    """Groups of weights, each with angles of its own: a decoder's or tower's layer, or a weight that is in none."""
    degrees: tuple[float, float, float]
    """Least, middle and largest angle between two versions in one of them."""
    tensors: int
    """Of the result."""
    head_apart: bool
    """A version trained the output head apart from the embeddings: the result does not tie them."""


def slerp_coefficients(products: Sequence[Sequence[float]]) -> list[float]:
    """What each task vector is multiplied by, so that the sum is their spherical mean.

    Two at a time (§3.2): the m-th version joins the mean of those before it with λ = 1/m. The result depends a little
    on their order. Where two vectors are parallel, opposite, or one is zero, it is the straight mean of the two (LERP).

    Args:
        products: (M, M), the scalar products of the task vectors with one another.

    Returns:
        M factors: sin((1-λ)Ω)/sin Ω and sin(λΩ)/sin Ω for two.
    """
    coefficients = [1.0]
    for number in range(1, len(products)):
        known = range(number)
        square = sum(coefficients[i] * coefficients[j] * products[i][j] for i in known for j in known)
        along = sum(coefficients[i] * products[i][number] for i in known)
        kept, joined = _two(_angle(along, square, products[number][number]), 1 / (number + 1))
        coefficients = [kept * one for one in coefficients] + [joined]
    return coefficients


def slerp_merge(
    base: Path,
    versions: Sequence[Path],
    out: Path,
    *,
    toward_base: float = 0.0,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    advance: Advance = lambda tensors: None,
) -> Slerped:
    """Average versions tuned from one base, LoRA adapters or whole checkpoints, layer by layer.

    Args:
        base: folder of the Gemma 3 or SigLIP checkpoint that all were tuned from, in any layout.
        versions: PEFT adapter folders and checkpoints, two or more; one alone goes through as it is.
        out: new folder, in the Hub's layout; it appears when it is whole.
        toward_base: 1 - η of LITI (§3.3): 0 keeps the mean, 1 is the base.
        dtype: "float32" or "bfloat16"; None keeps the base's.
        max_shard_bytes: a larger file is written as several, with an index.
        overwrite: replace a folder that is there.
        advance: called with 1 after each tensor, read twice.

    Raises:
        ValueError: as `medgemma.checkpoints.adapters.merge` of an adapter; a checkpoint's weights differ from the
            base's in name or shape; toward_base is not in 0..1.
    """
    if not 0 <= toward_base <= 1:
        raise ValueError(f"toward_base is {toward_base}; expected 0 (the mean) to 1 (the base)")
    if not versions:
        raise ValueError("no version to average; give adapters or checkpoints tuned from the base")
    config = read_json(base / "config.json")
    kind, stored, weights = kind_of(config, base), stored_name(dtype), matched_folder(base)
    with ExitStack() as stack:
        found = [_version(folder, base, kind, weights) for folder in versions]
        apart = kind in TIED_HEADS and any(version.head_apart for version in found)
        weights = with_head(weights, kind) if apart else weights
        folder = stack.enter_context(whole_folder(out, overwrite, base, *versions))
        files = {tensor.file for tensor in weights.values()}.union(*(version.files for version in found))
        handles = stack.enter_context(opened(sorted(files), "pt"))
        planned = planned_from(handles, weights)
        groups = _products(planned, found, handles, advance)
        factors = {name: slerp_coefficients(products) for name, products in groups.items()}
        planned = [
            _mean(
                tensor,
                found,
                handles,
                factors[_layer_of(tensor.name)],
                1 - toward_base,
                stored or tensor.dtype,
                advance,
            )
            for tensor in planned
        ]
        if apart and head_is_embeddings(planned, kind):
            apart, planned = False, [tensor for tensor in planned if tensor.name not in TIED_HEADS[kind]]
        write_tensors(folder, planned, max_shard_bytes)
        write_config(folder, untied(config) if apart else config, stored or common_dtype(weights))
        copy_companions(base, folder)
    return Slerped(len(found), len(groups), _degrees(groups), len(planned), apart)


class _Version(NamedTuple):
    """A tuned version of the base."""

    change: Callable[[str, Any, Mapping[Path, Any]], Any]
    """A weight's Hub name and the base's weight in float32 to its task vector, or None where nothing was changed."""
    files: set[Path]
    head_apart: bool


def _version(folder: Path, base: Path, kind: str, weights: Mapping[str, StoredTensor]) -> _Version:
    if not (folder / CONFIG_FILE).is_file():
        return _whole(folder, base, kind, weights)
    adapter = read_adapter(folder, kind, weights)
    refuse_added_tokens(folder, base)
    refuse_other_base(folder, base)
    return _Version(_change_of(adapter), {folder / WEIGHTS_FILE}, changes_tied(adapter, kind, weights))


def _change_of(adapter: Adapter) -> Callable[[str, Any, Mapping[Path, Any]], Any]:
    def change(name: str, weight: Any, handles: Mapping[Path, Any]) -> Any:
        if name in adapter.replaced:
            return read_finite(handles, adapter.replaced[name]).float() - weight
        return summed(weight, adapter.updates[name], handles) - weight if name in adapter.updates else None

    return change


def _whole(folder: Path, base: Path, kind: str, weights: Mapping[str, StoredTensor]) -> _Version:
    own_kind, tuned = kind_of(read_json(folder / "config.json"), folder), matched_folder(folder)
    if own_kind != kind:
        raise ValueError(f"{folder}: a {own_kind}, and the base {base} a {kind}; give versions of one base")
    heads = TIED_HEADS.get(kind, {})
    for name in sorted(weights.keys() ^ tuned.keys() - heads.keys()):
        where = base if name in weights else folder
        raise ValueError(f"{folder}: {name} stands only in {where}; give versions of one base")
    for name in weights.keys() & tuned.keys():
        if tuned[name].shape != weights[name].shape:
            raise ValueError(
                f"{folder}: {name} is {tuned[name].shape}, the base's {weights[name].shape}; give versions of one base"
            )

    def change(name: str, weight: Any, handles: Mapping[Path, Any]) -> Any:
        return read_finite(handles, tuned[name if name in tuned else heads[name]]).float() - weight

    apart = any(head in tuned and head not in weights for head in heads)
    return _Version(change, {tensor.file for tensor in tuned.values()}, apart)


def _products(
    planned: Sequence[PlannedTensor], versions: Sequence[_Version], handles: Mapping[Path, Any], advance: Advance
) -> dict[str, list[list[float]]]:
    """The scalar products of the task vectors, of each layer."""
    groups: dict[str, list[list[float]]] = {}
    places = [(i, j) for i in range(len(versions)) for j in range(i, len(versions))]
    for tensor in planned:
        products = groups.setdefault(_layer_of(tensor.name), [[0.0] * len(versions) for _ in versions])
        vectors = list(_task_vectors(tensor, versions, handles))
        for i, j in places:
            if vectors[i] is not None and vectors[j] is not None:
                product = float((vectors[i].double() * vectors[j].double()).sum())
                products[i][j] += product
                if i != j:
                    products[j][i] += product
        advance(1)
    return groups


def _task_vectors(tensor: PlannedTensor, versions: Sequence[_Version], handles: Mapping[Path, Any]) -> Iterator[Any]:
    weight = tensor.make().float()
    for version in versions:
        yield version.change(tensor.name, weight, handles)


def _mean(
    tensor: PlannedTensor,
    versions: Sequence[_Version],
    handles: Mapping[Path, Any],
    factors: Sequence[float],
    eta: float,
    dtype: str,
    advance: Advance,
) -> PlannedTensor:
    """The base's weight and η times the mean of its task vectors, in float32, rounded once."""

    def make() -> Any:
        result = tensor.make().float()
        for factor, vector in zip(factors, list(_task_vectors(tensor, versions, handles)), strict=True):
            if vector is not None:
                result = result + eta * factor * vector
        advance(1)
        return result.to(torch_dtype(dtype))

    return tensor._replace(dtype=dtype, make=make)


def _layer_of(name: str) -> str:
    found = LAYER.match(name)
    return found[1] if found else name


def _angle(product: float, square: float, other_square: float) -> float:
    """Ω, or 0 where a vector has no direction."""
    lengths = sqrt(max(square, 0.0) * max(other_square, 0.0))
    return acos(min(1.0, max(-1.0, product / lengths))) if lengths > 0 else 0.0


def _two(angle: float, share: float) -> tuple[float, float]:
    """What two vectors are multiplied by; `share` is λ, the second's."""
    if angle < NEARLY_PARALLEL or pi - angle < NEARLY_PARALLEL:
        return 1 - share, share
    return sin((1 - share) * angle) / sin(angle), sin(share * angle) / sin(angle)


def _degrees(groups: Mapping[str, Sequence[Sequence[float]]]) -> tuple[float, float, float]:
    angles = sorted(
        _angle(products[i][j], products[i][i], products[j][j]) * 180 / pi
        for products in groups.values()
        for i in range(len(products))
        for j in range(i)
        if products[i][i] > 0 and products[j][j] > 0
    )
    return (angles[0], angles[len(angles) // 2], angles[-1]) if angles else (0.0, 0.0, 0.0)
