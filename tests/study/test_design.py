"""What is drawn before the first answer: balanced sides and orders, sessions, and the power told."""

from collections import Counter

import pytest

from latent_shift.study.design import all_pairs, draw_queue, draw_sessions, farthest_prompt
from latent_shift.study.power import power
from latent_shift.study.simulation import Preference, simulated_votes
from latent_shift.study.votes import compare
from studies import design_only


@pytest.mark.parametrize(("prompts", "sources", "raters"), [(20, 2, 5), (7, 3, 4), (3, 2, 1), (9, 4, 3)])
def test_queue_gives_every_pair_to_its_raters_with_balanced_sides(prompts, sources, raters):
    pairs = all_pairs(prompts, sources)
    queue = draw_queue(pairs, raters, seed=3)
    assert Counter(trial.pair for trial in queue) == dict.fromkeys(range(len(pairs)), raters)
    for pair in range(len(pairs)):
        left = [trial.left for trial in queue if trial.pair == pair]
        assert abs(2 * sum(left) - raters) <= raters % 2  # as often on either side
    for both in {pair.sources for pair in pairs}:
        left = [trial.left for trial in queue if pairs[trial.pair].sources == both]
        assert abs(2 * sum(left) - len(left)) <= 1
    for number in range(raters):  # in a round, and at any moment of it
        part = queue[number * len(pairs) : (number + 1) * len(pairs)]
        assert {trial.pair for trial in part} == set(range(len(pairs)))
        seen = [2 * trial.left - 1 for trial in part]
        assert all(abs(sum(seen[:end])) <= 1 for end in range(len(seen) + 1))


def test_orders_of_rounds_differ_and_come_from_the_seed():
    pairs = all_pairs(20, 2)
    queue = draw_queue(pairs, 2, seed=1)
    assert [trial.pair for trial in queue[:20]] != [trial.pair for trial in queue[20:]]
    assert queue == draw_queue(pairs, 2, seed=1)
    assert queue != draw_queue(pairs, 2, seed=2)


@pytest.mark.parametrize("pairs", [1, 2, 6, 30])
def test_sessions_have_their_pairs_catches_and_repeats(pairs):
    sessions = draw_sessions(8, pairs, training=3, catches=5, seed=1)
    for session in sessions:
        kinds = [item.kind for item in session]
        assert kinds[:3] == ["training"] * 3
        assert kinds.count("pair") == pairs
        catches = [item for item in session if item.kind == "catch"]
        assert len(catches) == len({item.index for item in catches}) == 3
        assert abs(2 * sum(item.left for item in catches) - 3) == 1
        repeats = [place for place, item in enumerate(session) if item.kind == "repeat"]
        assert len(repeats) == (0 if pairs < 5 else max(1, round(pairs / 10)))
        for place in repeats:
            before = [number for number in range(place) if session[number].kind == "pair"]
            again = session[place].index
            assert again < len(before)
            if pairs == 30:
                assert len(before) - again > 5  # others lie between
    assert len(set(sessions)) > 1
    assert sessions == draw_sessions(8, pairs, training=3, catches=5, seed=1)


def test_known_pairs_take_a_prompt_with_other_words():
    import random

    prompts = ["a red dot on navy", "a red ring on navy", "blue fish swim"]
    assert farthest_prompt(prompts, 0, random.Random(0)) == 2


def test_power_grows_with_prompts_raters_and_preference():
    assert power(0.5, 300, 5, 30) == pytest.approx(0.05, abs=0.01)
    assert (
        power(0.55, 100, 5, 30) < power(0.55, 300, 5, 30) < power(0.55, 300, 9, 30) < power(0.6, 300, 5, 30)
    )
    assert power(0.6, 1, 5, 1) == 0.0


@pytest.mark.slow
def test_power_told_is_that_of_simulated_studies():
    study, preference = design_only(prompts=60, raters=4, pairs=12), Preference(0.6)
    found = 0
    for seed in range(60):
        votes, _, _ = simulated_votes(study, preference, seed)
        found += bool(compare(votes, "quality", "a", "b").different)
    told = power(0.6, 60, 4, 12)
    assert 0.4 < told < 0.8  # where a wrong one would show
    assert abs(found / 60 - told) < 0.17  # 2.6 standard deviations of 60 studies
