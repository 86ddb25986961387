"""Numbers and texts that decoders trip over."""

import random

# fmt: off
UNSIGNED_16 = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 255, 256, 1000, 4096, 16384, 30000,
    32767, 32768, 65534, 65535,
)
UNSIGNED_32 = (
    0, 1, 2, 3, 7, 255, 256, 65535, 65536, 2**20, 2**24, 100_000, 2**30, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1,
)
UNSIGNED_64 = (0, 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e-30, 1e30, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)
DECIMAL_TEXTS = (
    "0", "-0", "1", "-1", "0.5", "1e-320", "1e30", "1e308", "-1e308", "nan", "inf", "-inf", "1e999", "", " ", "1A",
    "0x10", "--1", "1,5", "١", "9" * 300, "\\", "1\\", "\\\\\\", "0\\0", "nan\\nan",
)
INTEGER_TEXTS = (
    "0", "-1", "1", "2", "3", "5", "1000", "100000", "2147483647", "2147483648", "4294967296", "99999999999999999",
    "1e9", "2.5", "1A", "", " ", "nan", "9" * 300, "1\\2",
)
# fmt: on


def near(rng: random.Random, value: int, limit: int) -> int:
    """A number beside the true one, within 0..limit."""
    return max(0, min(limit, rng.choice((value - 1, value + 1, value * 2, value // 2, value * 100, value + 256))))
