"""Intervals for measured rates."""

import math


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a success rate, 95 % by default (E. B. Wilson, JASA 22, 1927).

    Its ends at none and at all are exactly 0 and 1, as the formula has it but for rounding.

    Raises ValueError without a trial or with more successes than trials.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials give no rate")
    rate, z2 = successes / trials, z * z
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    return (centre - half if successes else 0.0), (centre + half if successes < trials else 1.0)


def difference_interval(successes: int, trials: int, of: int, others: int) -> tuple[float, float]:
    """Newcombe's interval of the rate `successes` / `trials` less the rate `of` / `others`, 95 %.

    Made of the two Wilson intervals (R. G. Newcombe, Statistics in Medicine 17, 1998, method 10), for independent
    trials. Raises ValueError as `wilson_interval`.
    """
    (low, high), (other_low, other_high) = wilson_interval(successes, trials), wilson_interval(of, others)
    rate, other = successes / trials, of / others
    below, above = math.hypot(rate - low, other_high - other), math.hypot(high - rate, other - other_low)
    return rate - other - below, rate - other + above
