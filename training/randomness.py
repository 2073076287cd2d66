"""The random numbers of training steps and of choosing the score rule. They follow from the run's seed and
what they are for, so that a run that was stopped goes on with the same ones. The first weights, the splits,
the memory's candidates and the preview take the seed itself."""

from enum import IntEnum

from numpy.random import Generator, default_rng


class Purpose(IntEnum):
    """What random numbers are for. Those of one seed are independent of each other."""

    ORDER = 0
    """The order of an epoch's images."""
    DAMAGE = 1
    """Pseudo-abnormal versions of a step's frames."""
    RULE = 2
    """Pseudo-abnormal versions that the score rule is chosen with."""
    NOISE = 3
    """Noise on a step's features."""


def generator(seed: int, purpose: Purpose, *key: int) -> Generator:
    """`key`: such as the step; another one gives other numbers."""
    return default_rng((seed, purpose, *key))


def seeds(seed: int, purpose: Purpose, *key: int, count: int) -> list[int]:
    """`count` seeds, from 0 to below 2^62, for other generators."""
    numbers: list[int] = generator(seed, purpose, *key).integers(0, 1 << 62, count).tolist()
    return numbers
