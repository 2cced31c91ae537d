from lldm3d.training.state import EpochSampler


def test_each_epoch_has_its_own_order_that_repeats():
    sampler = EpochSampler(10, 25, seed=3)
    first, again = list(sampler), list(sampler)
    sampler.epoch = 2
    assert first == again
    assert list(sampler) != first
    assert len(first) == len(sampler) == 25


def test_every_case_is_drawn_equally_often():
    counts = [list(EpochSampler(5, 20)).count(case) for case in range(5)]
    assert counts == [4] * 5


def test_ranks_share_one_order():
    whole = EpochSampler(7, 12, seed=1)
    parts = []
    for rank in (0, 1):
        part = EpochSampler(7, 6, seed=1)
        part.rank, part.world = rank, 2
        parts.append(list(part))
    assert [case for pair in zip(*parts, strict=True) for case in pair] == list(whole)
