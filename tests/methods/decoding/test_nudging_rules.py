"""The rules of nudging over text and over tokens, on tables."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.vector_adapters.nudging import Table
from truing.methods.decoding import nudging_rules as rules
from truing.methods.decoding import nudging_turns as turns
from truing.methods.decoding.two_models import best, ensemble_step, proxy_tuning_step
from truing.models.answers import Draft

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "nudging.json"
TABLES = [
    (case["inputs"]["base_model"], case["inputs"]["nudging_model"])
    for number, case in enumerate(json.loads(VECTORS.read_text())["cases"])
    if number in (0, 5)
]
REASONS = {
    "nudging_model_stop": "guide stopped",
    "round": "rounds",
    "repeated_nudging_words": "repeated nudging words",
}
DISTRIBUTION = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.01, 1), min_size=1, max_size=8)


def greedy(table):
    text, out = Table(table), ""
    while True:
        part = text(out, 20)
        out += "".join(part.pieces)
        if part.stopped or len(out) > 400:
            return out


@given(st.text(alphabet=" \n\tab.你の", max_size=30))
def test_words_join_to_the_text_again(text):
    parts = rules.words(text)
    assert "".join(parts) == text
    assert all(len(part) - len(part.lstrip(" ")) <= 1 for part in parts[1:])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two", ["one", " two"]),
        ("  one  two ", ["  one", " ", " two", " "]),
        ("a\nb\tc d", ["a\nb\tc", " d"]),
        ("", [""]),
        ("你好 x", ["你", "好", " x"]),
        (" 你好", [" 你", "好"]),
        ("a日b", ["a", "日b"]),
    ],
)
def test_words(text, parts):
    assert rules.words(text) == parts


def test_uncertain_is_strictly_below():
    assert not rules.is_uncertain(0.4, 0.4)
    assert rules.is_uncertain(0.399, 0.4)
    assert not rules.is_uncertain(math.exp(-0.916290732), 0.4)
    assert not rules.is_uncertain(0.0, 0.0)
    assert rules.is_uncertain(1.0, 1.01)
    assert not turns.Settings(gamma=0.4, equal_is_sure=False).sure(0.4)
    assert turns.Settings(gamma=0.4).sure(0.4)


@given(st.text(alphabet="ab ", max_size=15), st.integers(0, 4))
def test_cutting_repeats(text, times):
    found = rules.cut_repeated_suffix(text * times, 3)
    assert (text * times).startswith(found)
    assert rules.cut_repeated_suffix(found, 3) == found


def test_a_text_written_twice_is_cut_once_over():
    text = "the bird is small and red, of course. "
    assert rules.cut_repeated_suffix(text * 2) == text
    assert rules.cut_repeated_suffix(text * 4) == text
    assert rules.cut_repeated_suffix("short " * 4) == "short " * 4


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab ", min_size=1, max_size=6), max_size=4), st.integers(0, 3), st.data())
def test_what_was_shown_is_never_taken_back(parts, times, data):
    # Ends that repeat, ends of those that repeat, and what only begins to.
    text = "".join(parts * times) + "".join(parts[:2] * times)
    shown, least = [], data.draw(st.integers(1, 4))
    certain, at = rules.Certain(shown.append, least), 0
    while at < len(text):
        size = data.draw(st.integers(1, 5))
        certain.push(text[at : at + size])
        at += size
        # An answer may end here.
        assert rules.cut_repeated_suffix(text[:at], least).startswith("".join(shown))
    certain.finish(rules.cut_repeated_suffix(text, least))
    assert "".join(shown) == rules.cut_repeated_suffix(text, least)


def test_most_of_a_text_is_shown_at_once():
    shown = []
    certain = rules.Certain(shown.append)
    certain.push("the bird is small and red, of course, and sits on the mat")
    assert sum(map(len, shown)) >= 45
    certain.push(". the bird is small and red, of")
    assert "".join(shown).endswith("mat.")


def test_same_words_four_times_in_a_row():
    same = rules.SameWords()
    assert [same.again(word) for word in ("a", "a", "b", "b", "b", "a", "b", "b", "b", "b")] == [False] * 9 + [True]


@pytest.mark.parametrize(("base", "guide"), TABLES)
def test_a_guide_that_is_the_base_gives_the_greedy_answer_of_both(base, guide):
    for gamma in (0.0, 0.3, 0.5, 1.01):
        for lookahead in (1, 3, 16):
            found = rules.nudging_decode(Table(guide), Table(guide), gamma=gamma, lookahead=lookahead)
            assert found.text == greedy(guide)
            assert found.stop_reason == "nudging_model_stop"
            assert "".join(found.rounds).strip() == found.text


def test_above_one_the_guide_writes_all():
    base, guide = TABLES[0]
    for lookahead in (2, 4, 7):
        assert rules.nudging_decode(Table(base), Table(guide), gamma=1.01, lookahead=lookahead).text == greedy(guide)


@pytest.mark.parametrize(("base", "guide"), TABLES)
@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.4, 0.55, 0.75, 0.9])
def test_chunks_of_the_base_change_the_cost_alone(base, guide, gamma):
    found = [
        rules.nudging_decode(Table(base), Table(guide), gamma=gamma, lookahead=4, chunk=chunk).text
        for chunk in (2, 3, 16, 40)
    ]
    assert len(set(found)) == 1


def test_limits():
    base, guide = TABLES[0]
    found = rules.nudging_decode(Table(base), Table(guide), gamma=1.01, lookahead=2, max_rounds=2)
    assert (found.stop_reason, len(found.rounds)) == ("round", 2)
    found = rules.nudging_decode(Table(base), Table(guide), gamma=1.01, lookahead=2, max_tokens=3)
    assert found.stop_reason == "length"
    endless = {"": {" on": 0.3, " and": 0.2}}
    found = rules.nudging_decode(Table(endless), Table({"": {" yes": 1.0}}), gamma=0.4, lookahead=2)
    assert found.stop_reason == "repeated_nudging_words"
    assert found.text == "yes yes yes"


def by_word(base, guide, gamma, lookahead):
    """The word rule on tables: its tokens are pieces of text, so that nothing but the rule can differ."""

    def side(table):
        return turns.Side("".join, lambda text: [text] if text else [], frozenset({"<eos>"}), 1000)

    def ask(table):
        def top(tokens):
            part = Table(table)("".join(tokens), 1)
            return turns.Top("<eos>" if part.stopped else part.pieces[0], part.tops[0])

        return top

    answer = turns.Answer(Draft("".join, frozenset(), 1000), 1000)
    rule = turns.nudge_by_word(answer, turns.Settings(gamma, lookahead), side(base), side(guide))
    stopped = turns.answered(rule, {"base": ask(base), "guide": ask(guide)})
    return rules.cut_repeated_suffix(answer.draft.text.strip()), stopped, answer.pieces


@pytest.mark.parametrize(("base", "guide"), TABLES)
@pytest.mark.parametrize("gamma", [0.0, 0.2, 0.31, 0.4, 0.45, 0.55, 0.75, 0.9, 1.01])
@pytest.mark.parametrize("lookahead", [1, 2, 3, 4, 6, 16])
def test_the_rule_over_ids_is_the_rule_over_text(base, guide, gamma, lookahead):
    found = rules.nudging_decode(Table(base), Table(guide), gamma=gamma, lookahead=lookahead)
    text, stopped, _ = by_word(base, guide, gamma, lookahead)
    assert text == found.text
    assert stopped == REASONS[found.stop_reason]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 0.7]), st.integers(1, 5))
def test_the_rule_over_ids_is_the_rule_over_text_on_random_tables(seed, gamma, lookahead):
    chance = random.Random(seed)
    pieces = ["a", " b", " c d", "e ", " fg", ".", "<eos>"]

    def table():
        # The key is the last letter, so that both ways see one state however the text was cut.
        return {key: {piece: chance.random() for piece in chance.sample(pieces, 3)} for key in ("", *"abcdefg. ")}

    def scaled(one):
        return {key: {p: v / sum(row.values()) for p, v in row.items()} for key, row in one.items()}

    base, guide = scaled(table()), scaled(table())
    found = rules.nudging_decode(Table(base), Table(guide), gamma=gamma, lookahead=lookahead, max_tokens=15)
    text, _, _ = by_word(base, guide, gamma, lookahead)
    # Only what was written before circles or limits is compared: the two look at repetition over different stretches.
    assume(found.stop_reason == "nudging_model_stop" and len(found.text) < 14)
    assert text == found.text


def chain(rows):
    probabilities = [[math.exp(value) for value in row] for row in rows]

    def top(tokens):
        row = probabilities[tokens[-1] if tokens else 1]
        return turns.Top(row.index(max(row)), max(row) / sum(row))

    return top


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.1]), st.integers(1, 6))
def test_by_token_every_nudge_starts_where_the_base_is_unsure(seed, gamma, lookahead):
    chance = random.Random(seed)
    base, guide = (chain([[chance.gauss(0, 2) for _ in range(7)] for _ in range(7)]) for _ in range(2))
    ends = frozenset({0})
    found = turns.token_level_nudging(
        base, guide, lambda token: token % 2 == 0, gamma=gamma, lookahead=lookahead, max_new_tokens=20, ends=ends
    )
    assert sum(count for _, count in found.pieces) == len(found.tokens)
    at = 0
    for who, count in found.pieces:
        for place in range(at, at + count):
            wanted = (base if who == "base" else guide)(found.tokens[:place])
            assert found.tokens[place] == wanted.token
            if who == "base":
                assert wanted.probability >= gamma
        if who == "guide" and at:
            before = base(found.tokens[:at])
            assert before.probability < gamma or before.token in ends
        at += count
    assert (found.stopped == "guide stopped") == (found.tokens[-1] in ends)
    if gamma > 1:
        assert {who for who, _ in found.pieces} == {"guide"}


def test_by_token_a_shorter_budget_gives_a_prefix():
    for seed in range(30):
        chance = random.Random(seed)
        base, guide = (chain([[chance.gauss(0, 2) for _ in range(7)] for _ in range(7)]) for _ in range(2))
        long, short = (
            turns.token_level_nudging(base, guide, lambda token: token > 3, max_new_tokens=most, lookahead=4).tokens
            for most in (30, 11)
        )
        assert short == long[:11]


def test_word_starts_of_real_spellings():
    spelled = {0: "\u0120the", 1: "the", 2: "\u2581the", 3: "æĹ¥", 4: None, 5: "\u010a"}
    texts = {0: " the", 1: "the", 2: "the", 3: "日", 4: "", 5: "\n"}
    starts = turns.word_starts(spelled.get, lambda tokens: texts[tokens[0]])
    assert [starts(token) for token in range(6)] == [True, False, True, True, False, False]


@given(DISTRIBUTION)
def test_two_model_steps_that_change_nothing(weights):
    base = {token: weight / sum(weights.values()) for token, weight in weights.items()}
    tuned = proxy_tuning_step(base, base, base)
    assert tuned == pytest.approx(base)
    assert proxy_tuning_step(base, dict.fromkeys(base, 0.1), dict.fromkeys(base, 0.1)) == pytest.approx(base)
    assert ensemble_step(base, base) == pytest.approx(base)
    assert best(ensemble_step(base, base)) == best(base)


def test_two_model_steps_on_tokens_that_are_not_shared():
    assert proxy_tuning_step({"a": 1.0}, {"b": 1.0}, {"a": 1.0}) == {}
    assert proxy_tuning_step({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}) == {"a": 1.0}
    assert ensemble_step({"a": 1.0}, {"b": 1.0}) == {"a": 0.5, "b": 0.5}
