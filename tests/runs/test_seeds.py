"""Seeds of parts."""

from fdpo.runs.seeds import derived_seed


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(seed, i) for seed in range(20) for i in range(20)}
    assert len(seeds) == 400 and derived_seed(3, 4) in seeds
