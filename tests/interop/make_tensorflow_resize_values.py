"""Write what TensorFlow's bilinear resize gives, for the test of the `report` policy to compare with.

TensorFlow is no dependency of the package: run this by hand in an environment of its own, from the repository root.

    python -m venv /tmp/tf && /tmp/tf/bin/pip install tensorflow-cpu
    /tmp/tf/bin/python -m tests.interop.make_tensorflow_resize_values
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

VALUES = Path(__file__).parents[1] / "medsiglip" / "imaging" / "tensorflow_resize.json"
CASES = [  # height, width, channels, side of the result
    (1, 1, 3, 7), (7, 7, 3, 1), (2, 2, 3, 4), (13, 13, 3, 8), (20, 13, 3, 8), (9, 31, 3, 16), (9, 31, 1, 16),
    (31, 8, 1, 17), (1, 64, 3, 48), (333, 777, 3, 101), (97, 97, 3, 448), (64, 64, 1, 448), (448, 448, 3, 448),
    (512, 512, 3, 448), (512, 512, 1, 448), (1030, 1030, 3, 448), (1031, 870, 3, 448), (2500, 2048, 1, 448),
    (448, 448, 3, 896), (300, 500, 3, 896), (512, 512, 3, 896), (1500, 1024, 3, 896), (2022, 2022, 1, 896),
]  # fmt: skip
NUM_SAMPLES = 40


def pattern(height: int, width: int, channels: int) -> np.ndarray:
    """(H, W, C) uint8 by formula: every level, no symmetry, black and white neighbours in every second 8 x 8 block."""
    y, x, c = np.ogrid[:height, :width, :channels]
    noise = (y * y * 31 + x * x * 17 + y * x * 7 + x * 5 + c * 89 + 13) % 256
    checks = (y + x + c) % 2 * 255
    return np.where((y // 8 + x // 8) % 2 == 0, noise, checks).astype(np.uint8)


def sampled(values: np.ndarray) -> list[float]:
    """A few of the values, spread over the whole array; a float32 passes through JSON unchanged."""
    flat = values.ravel()
    return [float(value) for value in flat[:: max(1, flat.size // NUM_SAMPLES)][:NUM_SAMPLES]]


def sha256(values: np.ndarray) -> str:
    """Of the values as little-endian float32, row by row."""
    return hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


def main() -> None:
    """Resize every case with TensorFlow and write the values with their provenance."""
    import tensorflow as tf

    cases = []
    for height, width, channels, size_px in CASES:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = tf.image.pad_to_bounding_box(pattern(height, width, channels), top, left, side, side)
        resized = tf.image.resize(square, [size_px, size_px], method="bilinear", antialias=False).numpy()
        cases.append(
            {
                "height": height, "width": width, "channels": channels, "size_px": size_px,
                "sha256": sha256(resized), "sample": sampled(resized),
            }
        )  # fmt: skip
    command = "python -m tests.interop.make_tensorflow_resize_values"
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
    lines = ",\n".join(json.dumps(case) for case in cases)
    VALUES.write_text(f'{{"command": {json.dumps(command)}, {json.dumps(versions)[1:-1]}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
