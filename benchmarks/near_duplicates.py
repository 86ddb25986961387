"""What `medsiglip check --table` finds of known copies, and what it takes for copies that are none.

    python benchmarks/near_duplicates.py DATA

LC25000's copies are rotations, flips and zooms of one source tile (column `patient_id`). Pairs of two groups are
printed, to be looked at: a set's groups do not know of every copy.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from data_cards.table import Table, read_table
from medsiglip.metrics.statistics import grouped_weighted_ci
from medsiglip.tables.check import decode_pictures
from medsiglip.tables.near_duplicates import NearDuplicate, find_near_duplicates

COPIES = "histo-lc25000-lung"
OTHERS = ("cxr-nih14", "modality-mednist", "derm-ham10000", "fundus-dr")


def main(data: Path) -> None:
    """Print a line a set."""
    with threadpool_limits(1):
        for name in (COPIES, *OTHERS):
            table = read_table(data / name / "labels.csv")
            decoded = decode_pictures(table)
            group_of = {file: row.group for row in table.rows for file in row.files}
            groups = [group_of[file] for file in decoded.files]
            pairs = find_near_duplicates(decoded.maps, groups, small=decoded.small)
            across = [pair for pair in pairs if groups[pair.first] != groups[pair.second]]
            num_pairs = len(groups) * (len(groups) - 1) // 2 - _within(groups)
            print(f"{name}: {len(groups)} pictures; named of {num_pairs} pairs of two groups: {len(across)}")
            if name == COPIES:
                _print_recall(groups, pairs)
            for pair in across[:20]:
                places = (_row(table, decoded.files[place]) for place in (pair.first, pair.second))
                print(f"  {' and '.join(places)}: {pair.correlation:.2f}")


def _print_recall(groups: list[str], pairs: list[NearDuplicate]) -> None:
    """Recall of pairs, and of pictures with a copy of which one is found; tiles resampled."""
    found: dict[str, int] = defaultdict(int)
    with_copy: dict[str, set[int]] = defaultdict(set)
    for pair in pairs:
        if groups[pair.first] == groups[pair.second]:
            found[groups[pair.first]] += 1
            with_copy[groups[pair.first]] |= {pair.first, pair.second}
    sizes = Counter(groups)
    tiles = sorted(sizes)
    rows = np.array([[found[t], sizes[t] * (sizes[t] - 1) // 2, len(with_copy[t]), sizes[t]] for t in tiles], float)
    for what, hit, of in (("pairs", 0, 1), ("pictures", 2, 3)):
        estimate = grouped_weighted_ci(lambda w, hit=hit, of=of: (w @ rows[:, hit]) / (w @ rows[:, of]), tiles)
        low, high = estimate.ci95
        n = int(rows[:, of].sum())
        print(f"  recall of {what}: {estimate.value:.3f} [{low:.3f}, {high:.3f}], n {n}, {len(tiles)} tiles")


def _within(groups: list[str]) -> int:
    return sum(count * (count - 1) // 2 for count in Counter(groups).values())


def _row(table: Table, file: Path) -> str:
    return next(row.place for row in table.rows if file in row.files)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
