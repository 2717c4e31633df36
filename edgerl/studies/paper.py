"""The figures of Sokar et al. (Dynamic Sparse Training for Deep Reinforcement Learning, IJCAI 2022), beside ours.

Returns: mean of the last 10 evaluations after a million steps, mean ± standard deviation over 5 seeds, gym's v3 tasks.
Costs: of HalfCheetah; training FLOPs relative to dense TD3's 1.07e14.
"""

from __future__ import annotations

STEPS = 1_000_000

RETURNS: dict[tuple[str, str], tuple[float, float]] = {
    ("HalfCheetah", "td3"): (11153, 473),
    ("HalfCheetah", "static-td3"): (10584, 307),
    ("HalfCheetah", "ds-td3"): (11460, 483),
    ("Walker2d", "td3"): (4042, 577),
    ("Walker2d", "static-td3"): (3951, 444),
    ("Walker2d", "ds-td3"): (4871, 525),
    ("Hopper", "td3"): (2185, 1224),
    ("Hopper", "static-td3"): (3571, 44),
    ("Hopper", "ds-td3"): (3587, 71),
    ("Ant", "td3"): (4288, 1081),
    ("Ant", "static-td3"): (4149, 801),
    ("Ant", "ds-td3"): (5012, 597),
    ("Humanoid", "td3"): (3809, 1053),
    ("Humanoid", "static-td3"): (4989, 546),
    ("Humanoid", "ds-td3"): (5238, 122),
}
"""(task, method) → (mean, standard deviation)."""

COSTS: dict[tuple[str, str], tuple[int, float]] = {
    ("HalfCheetah", "td3"): (214_784, 1.0),
    ("HalfCheetah", "static-td3"): (106_169, 0.49),
    ("HalfCheetah", "ds-td3"): (106_169, 0.49),
}
"""(task, method) → (connections of actor and both critics, training FLOPs relative to dense TD3's)."""
