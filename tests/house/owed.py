"""The rows of acceptance that must have a test: what tests/house/test_acceptance_marks.py compares the marks with."""

from typing import Final

PART_1: Final = frozenset(
    f"CT{row:02}"
    for row in (1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 27, 28, 32, 34, 39, 40)
)

PART_2: Final = frozenset(f"CT{row:02}" for row in (9, 18, 29, 30, 31, 33, 37, 38))

PART_3: Final = frozenset(("CT05", "CT23", "CT24", "CT25", "CT26", "TA11", "TA12"))

PART_4: Final = frozenset(f"CT{row:02}" for row in (1, 2, 3, 4, 7, 8, 10, 11, 12, 13, 16, 17, 18, 19))

PART_5: Final = frozenset(("CT04", "CT05", "CT17", "CT18", "CT19", "CT35", "CT36", "TA01"))

PART_6_QUEUES: Final = frozenset(("TA05", "TA06", "TA07", "MY08", "MY09", "MY10"))

PART_6_LIFE: Final = frozenset(("TA13", "TA14", "TA46", "MY20"))

PART_6_TASKS: Final = frozenset(
    f"TA{row:02}" for row in (4, 15, 16, 17, *range(18, 28), *range(29, 35), 42, 43, 44, 45, 47, 53, 55, 56, 57)
)

PART_6_ROUTES: Final = frozenset(("TA08", "TA09", "TA10", "MY16"))

OWED: Final = PART_1 | PART_2 | PART_3 | PART_4 | PART_5 | PART_6_QUEUES | PART_6_LIFE | PART_6_TASKS | PART_6_ROUTES
