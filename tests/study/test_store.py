"""Answers: each pair to the number of raters asked for, none lost, none twice, whatever raters do."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from latent_shift.server.database import connect
from latent_shift.study.analysis import analyse
from latent_shift.study.report import markdown
from latent_shift.study.schema import ConflictError, UnknownError
from latent_shift.study.store import StudyStore, check_clips
from studies import attentive, rate_all

RATERS = 3


def always_left(showing, question):
    return "left"


def votes(store):
    return [one for one in store.answers() if one.kind == "pair" and one.live and one.whole]


def begin(store):
    token = store.add_rater()
    store.consent(token)
    return token, store.current(token)


def finish(store, clock, token, showing, choice="left"):
    for question in ("quality", "faithfulness"):
        clock.now += 1
        store.answer(token, showing.id, question, choice)


def skip_training(store, clock, token):
    """Answer a rater's training; return the first showing after it."""
    while (showing := store.current(token)).kind == "training":
        finish(store, clock, token, showing)
    return showing


def test_every_pair_gets_its_raters_and_none_rates_a_pair_twice(store, clock):
    tokens = rate_all(store, clock, attentive(store))
    counts = Counter((one.pair, one.question) for one in votes(store))
    assert set(counts.values()) == {RATERS}
    assert len(counts) == 2 * len(store.study.pairs)
    assert max(Counter((one.rater, one.pair, one.question) for one in votes(store)).values()) == 1
    sides = defaultdict(list)
    for one in votes(store):
        if one.question == "quality":
            sides[one.pair].append(one.sources)
    assert all(len(set(seen)) == 2 for seen in sides.values())  # three raters: both sides occur
    progress = store.progress()
    assert (progress.whole, progress.wanted, progress.out) == (24, 24, 0)
    assert all(store.current(token) is None for token in tokens)
    assert begin(store)[1] is None  # who comes now has nothing to practise for


def test_repeats_swap_sides_and_catch_pairs_have_right_answers(store, clock):
    rate_all(store, clock, always_left)
    answers = store.answers()
    first = {(one.rater, one.pair): one.sources for one in answers if one.kind == "pair"}
    repeats = [one for one in answers if one.kind == "repeat"]
    assert repeats
    assert all(one.sources == first[one.rater, one.pair][::-1] for one in repeats)
    catches = [one for one in answers if one.kind == "catch"]
    assert {one.right for one in catches} == {True, False}  # always left is right half of the time
    assert all((one.sources[0] is not None) == one.right for one in catches)  # spoilt clips have no source


def test_what_is_in_front_stays_until_it_is_answered(store, clock):
    token, showing = begin(store)
    assert store.current(token) == showing
    clock.now += 1
    half = store.answer(token, showing.id, "quality", "right")
    assert half.answers == {"quality": "right"}
    assert store.current(token).id == showing.id
    clock.now += 1
    store.answer(token, showing.id, "faithfulness", "left")
    assert store.current(token).id != showing.id


def test_the_same_answer_again_changes_nothing_and_another_is_refused(store, clock):
    token, showing = begin(store)
    clock.now += 1
    for _ in range(3):
        store.answer(token, showing.id, "quality", "left")
    with pytest.raises(ConflictError) as error:
        store.answer(token, showing.id, "quality", "right")
    assert error.value.code == "answered"
    assert [one.choice for one in store.answers()] == ["left"]


def test_answers_come_after_a_play_and_in_turn(store, clock):
    token, showing = begin(store)
    for moment, question, code in ((0.0, "quality", "too_early"), (5.0, "faithfulness", "order")):
        clock.now += moment
        with pytest.raises(ConflictError) as error:
            store.answer(token, showing.id, question, "left")
        assert error.value.code == code
    store.answer(token, showing.id, "quality", "left")
    with pytest.raises(ConflictError) as error:  # the text has only just come up
        store.answer(token, showing.id, "faithfulness", "left")
    assert error.value.code == "too_early"
    clock.now += 5
    with pytest.raises(ConflictError, match="asks for left or right"):
        store.answer(token, showing.id, "faithfulness", "none")
    with pytest.raises(UnknownError, match="no question 'beauty'"):
        store.answer(token, showing.id, "beauty", "left")
    assert len(store.answers()) == 1


def test_only_what_was_given_out_is_taken(store, clock):
    token, showing = begin(store)
    other, _ = begin(store)
    clock.now += 1
    for wrong_token, wrong_showing in (("nobody", showing.id), (other, showing.id), (token, "nothing")):
        with pytest.raises(UnknownError):
            store.answer(wrong_token, wrong_showing, "quality", "left")
    with pytest.raises(UnknownError):
        store.clip(other, showing.id, True)
    with pytest.raises(ConflictError, match="agree"):
        store.current(store.add_rater())
    assert store.answers() == []


def test_an_abandoned_pair_goes_to_the_next_rater(store, clock):
    gone, _ = begin(store)
    left = skip_training(store, clock, gone)
    assert left.kind == "pair"
    clock.now += 1
    store.answer(gone, left.id, "quality", "right")  # and closes the page
    clock.now += 60 * store.study.options.lease_minutes + 1
    tokens = rate_all(store, clock, attentive(store))
    assert tokens
    counts = Counter((one.pair, one.question) for one in votes(store))
    assert set(counts.values()) == {RATERS}
    kept = [one for one in store.answers() if not one.live]
    assert [(one.rater, one.choice, one.whole) for one in kept] == [(0, "right", False)]  # kept, not counted
    clock.now += 1
    with pytest.raises(ConflictError) as error:
        store.answer(gone, left.id, "faithfulness", "right")
    assert error.value.code == "released"


def test_a_late_answer_is_taken_where_nobody_has_the_pair(store, clock):
    token, _ = begin(store)
    showing = skip_training(store, clock, token)
    clock.now += 60 * store.study.options.lease_minutes + 1
    begin(store)  # releases what is over
    finish(store, clock, token, showing)
    assert len(votes(store)) == 2


def test_someone_who_comes_back_to_half_a_pair_finds_it_as_it_was(store, clock):
    token, _ = begin(store)
    showing = skip_training(store, clock, token)
    clock.now += 1
    store.answer(token, showing.id, "quality", "right")
    clock.now += 60 * store.study.options.lease_minutes + 1
    again = store.current(token)
    assert (again.id, again.answers) == (showing.id, {"quality": "right"})
    # Released by somebody who came meanwhile and did not take it: the same.
    clock.now += 60 * store.study.options.lease_minutes + 1
    begin(store)
    assert store.current(token).id == showing.id
    store.answer(token, showing.id, "faithfulness", "left")
    assert [(one.choice, one.live) for one in store.answers()[-2:]] == [("right", True), ("left", True)]


def test_a_pair_that_went_to_another_is_never_shown_again(store, clock):
    token, _ = begin(store)
    lost = skip_training(store, clock, token)
    clock.now += 1
    store.answer(token, lost.id, "quality", "right")  # and reads the text
    clock.now += 60 * store.study.options.lease_minutes + 1
    other, _ = begin(store)
    skip_training(store, clock, other)
    rest = rate_alone(store, clock, token, attentive(store), lambda showing: False)
    assert rest is None
    shown = [one for one in store.answers() if one.rater == 0 and one.kind == "pair"]
    assert len(shown) > 3
    assert [one.pair for one in shown if not one.live] == [shown[0].pair]
    assert shown[0].pair not in {one.pair for one in shown if one.live}


def test_someone_who_comes_back_goes_on(store, clock):
    token, _ = begin(store)
    showing = skip_training(store, clock, token)
    finish(store, clock, token, showing)
    done = store.current(token).done
    clock.now += 30 * 24 * 3600.0
    again = store.current(token)
    assert again.done == done == 4
    finish(store, clock, token, again)
    assert len(votes(store)) == 2 * (1 + (again.kind == "pair"))


def test_many_raters_at_once(study):
    """Six threads: nothing is lost or given out twice."""
    ticks = count()
    store = StudyStore.open(study, lambda: 1e6 + next(ticks) / 2)  # every look at the clock is half a second

    def rater(number):
        token = store.add_rater()
        store.consent(token)
        sent, choose = 0, attentive(store, "left" if number % 2 else "right")
        while (showing := store.current(token)) is not None:
            for question in ("quality", "faithfulness"):
                store.answer(token, showing.id, question, choose(showing, question))
                sent += 1
        return sent

    with ThreadPoolExecutor(6) as pool:
        sent = list(pool.map(rater, range(6)))
    assert len(store.answers()) == sum(sent)
    counts = Counter((one.pair, one.question) for one in votes(store))
    assert set(counts.values()) == {RATERS}
    assert len(counts) == 2 * len(store.study.pairs)
    store.close()


def careless(store):
    """Wrong about catch pairs, which no rater is told of."""
    look = attentive(store)

    def choose(showing, question):
        right = look(showing, question)
        return right if showing.kind != "catch" else {"left": "right", "right": "left"}[right]

    return choose


def rate_alone(store, clock, token, choose, until=lambda showing: False):
    """One rater's session, to its end or until something is in front; the last showing."""
    while (showing := store.current(token)) is not None and not until(showing):
        for question in ("quality", "faithfulness"):
            clock.now += 1
            store.answer(token, showing.id, question, choose(showing, question))
    return showing


def check_whole(store, excluded):
    """Each pair has its number of raters without the excluded ones, whose answers are kept."""
    results = analyse(store.study, store.answers(), store.raters(), store.progress())
    assert [rater.number for rater in results.raters if rater.excluded] == excluded
    kept = [one for one in votes(store) if one.rater not in excluded]
    counts = Counter((one.pair, one.question) for one in kept)
    assert set(counts.values()) == {RATERS}
    assert len(counts) == 2 * len(store.study.pairs)
    assert (results.whole, results.wanted) == (24, 24)
    assert results.replaced == len({one.place for one in votes(store) if one.rater in excluded}) > 0
    text = markdown(results)
    assert "24 of 24 ratings of pairs are in" in text
    assert f"their {results.replaced} ratings are not among these" in text
    assert results.all_raters.answers == results.included.answers + 2 * results.replaced


def test_pairs_of_an_excluded_rater_go_to_others_when_the_session_ends(store, clock):
    token, showing = begin(store)

    def is_last(showing):
        return showing.place == showing.of - 1

    last = rate_alone(store, clock, token, careless(store), is_last)
    others = store.progress().whole
    assert others > 0  # nobody is judged in the midst of a session
    rate_alone(store, clock, token, careless(store))
    assert store.progress().whole == 0
    assert store.current(token) is None
    store.answer(token, last.id, "quality", store.answers()[-2].choice)  # again: changes nothing
    rate_all(store, clock, attentive(store))
    assert store.progress().whole == 24
    check_whole(store, [0])


def test_an_excluded_rater_who_left_is_replaced_and_cannot_go_on(store, clock, study):
    token, _ = begin(store)
    seen = []

    def after_two_catches(showing):
        seen.append(showing.kind)
        return seen.count("catch") >= 2 and showing.kind not in ("catch", "training")

    open_one = rate_alone(store, clock, token, careless(store), after_two_catches)
    assert store.progress().whole == seen[:-1].count("pair") > 0
    another, _ = begin(store)
    assert store.progress().whole > 0  # still within the lease
    clock.now += 60 * store.study.options.lease_minutes + 1
    store.current(another)
    assert store.progress().whole == 0
    clock.now += 1
    with pytest.raises(ConflictError) as error:
        store.answer(token, open_one.id, "quality", "left")
    assert error.value.code == "released"
    assert store.current(token) is None
    again = StudyStore.open(study, clock)  # the verdict is in the answers, not in the process
    assert again.current(token) is None
    again.close()
    rate_all(store, clock, attentive(store))
    check_whole(store, [0])


def test_answers_survive_the_end_of_the_process(study, clock):
    store = StudyStore.open(study, clock)
    token, showing = begin(store)
    clock.now += 1
    store.answer(token, showing.id, "quality", "right")
    # As if it had been killed: neither closed nor told.
    again = StudyStore.open(study, clock)
    assert [one.choice for one in again.answers()] == ["right"]
    assert again.current(token).id == showing.id
    store.close()
    again.close()


def test_the_database_itself_refuses_doubles(store, study, clock):
    token, showing = begin(store)
    clock.now += 1
    store.answer(token, showing.id, "quality", "left")
    database = sqlite3.connect(study / "answers.sqlite")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute("INSERT INTO answers SELECT * FROM answers")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(
            "INSERT INTO showings SELECT 'other', rater, place, kind, pair, known, trial, left_clip,"
            " right_clip, prompt, given, lease_until, completed, released FROM showings"
        )
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(
            "INSERT INTO raters SELECT number + 1, token, simulated, personal, created, consented FROM raters"
        )
    database.close()


def test_personal_links_stay_the_same(store):
    first = store.personal_tokens(3)
    assert len(set(first)) == 3
    store.add_rater()  # someone by the link for all
    assert store.personal_tokens(3) == first
    assert store.personal_tokens(5)[:3] == first
    assert store.invitation() == store.invitation()


def test_a_changed_study_file_is_refused(study):
    file = study / "study.json"
    content = json.loads(file.read_text())
    content["options"]["rule"]["catch_right"] = 0.1
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the study file was changed after the study was made"):
        StudyStore.open(study)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "study.json").unlink(), "holds no study"),
        (lambda folder: (folder / "study.json").write_text("{}"), "is no study file"),
        (lambda folder: (folder / "answers.sqlite").unlink(), "is missing"),
        (lambda folder: (folder / "answers.sqlite").write_bytes(b"x" * 5000), "is no store of answers"),
    ],
)
def test_a_damaged_folder_is_named(study, damage, message):
    for file in study.glob("answers.sqlite-*"):
        file.unlink()
    damage(study)
    with pytest.raises(ValueError, match=message):
        StudyStore.open(study)


def test_a_store_that_may_only_be_read_is_not_called_damaged(study):
    for file in study.glob("answers.sqlite-*"):
        file.unlink()
    if os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        os.chmod(place, 0o755)
        theirs = shutil.copytree(study, Path(place) / "study")
        os.seteuid(12345)
        try:
            with pytest.raises(ValueError, match=r"answers\.sqlite: you may only read it; copy the study's"):
                StudyStore.open(theirs)
        finally:
            os.seteuid(0)


def test_a_question_may_be_the_name_of_a_folder(study, tmp_path):
    asked = shutil.copytree(study, tmp_path / "which is better? #1 %20")
    with closing(connect(asked / "answers.sqlite").connect()) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM facts").scalar()
    assert not (tmp_path / "which is better").exists()


def test_changed_and_missing_clips_are_named(store, study):
    check_clips(store.study, study / "clips")
    clips = sorted((study / "clips").iterdir())
    clips[0].write_bytes(clips[1].read_bytes())
    with pytest.raises(ValueError, match=f"{clips[0].name}: this clip was changed"):
        check_clips(store.study, study / "clips")
    clips[0].unlink()
    with pytest.raises(ValueError, match="is missing"):
        check_clips(store.study, study / "clips")
