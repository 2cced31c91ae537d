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


def test_of_few_labelled_cases_each_batch_has_as_many_as_of_others():
    labelled = [True, False, False, True, False, False, False]
    sampler = EpochSampler(7, 28, seed=2, labelled=labelled)
    first = list(sampler)
    pairs = zip(first[::2], first[1::2], strict=True)
    assert first == list(sampler) and all(sum(labelled[case] for case in pair) == 1 for pair in pairs)
    assert {first.count(case) for case in (0, 3)} == {7} and {first.count(case) for case in (1, 2, 4, 5, 6)} <= {2, 3}
    sampler.epoch = 2
    assert list(sampler) != first


def test_ranks_mix_labelled_and_other_cases_alike():
    labelled, parts = [True, True, *[False] * 8], []
    for rank in (0, 1):
        part = EpochSampler(10, 8, seed=1, labelled=labelled)
        part.rank, part.world = rank, 2
        parts.append(list(part))
    assert all(sum(labelled[case] for case in part) == 4 for part in parts)
    assert sorted(case for part in parts for case in part if case > 1) == list(range(2, 10))  # each once


def test_the_order_is_the_same_where_all_or_most_cases_have_a_label():
    order = list(EpochSampler(6, 12, seed=4))
    for labelled in ([True] * 6, [True] * 5 + [False], [False] * 6):
        assert list(EpochSampler(6, 12, seed=4, labelled=labelled)) == order
