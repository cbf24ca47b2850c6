"""Retrieved demonstrations: which are taken, in which order, and within which room."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from tests.conformance.examples import model as tiny_model
from truing import RemoteModel, RetrievedDemonstrations, load
from truing.errors import RecordError, SettingsError
from truing.methods.prompting.similarity import Index, words
from truing.runs import find_recipe, parse

POOL = [
    {"prompt": "name the colour of the sea", "completion": "blue"},
    {"prompt": "name the colour of the sun", "completion": "yellow"},
    {"prompt": "how do I paint a boat?", "completion": "slowly"},
    {"prompt": "name the colour of the sun at night", "completion": "none"},
]


def prompts(aligned, query):
    return [m["content"] for m in aligned.conversation(query) if m["role"] == "user"]


def align(model=None, rows=POOL, **settings):
    return RetrievedDemonstrations(**settings).align(model or tiny_model(), rows)


# --- likeness --------------------------------------------------------------------------------------------------------


def naive_bm25(query, texts, k1=1.2, b=0.75):
    split = [words(text) for text in texts]
    mean = sum(map(len, split)) / len(split)
    out = []
    for text in split:
        total = 0.0
        for word, often in Counter(words(query)).items():
            n, f = sum(word in other for other in split), text.count(word)
            idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
            total += often * idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(text) / mean))
        out.append(total)
    return out


def test_bm25_is_the_formula() -> None:
    texts = ["the cat sat on the mat", "the dog", "a cat and a cat", ""]
    for query in ("the cat", "cat cat dog", "nothing here", ""):
        assert Index(texts).scores(query) == pytest.approx(naive_bm25(query, texts))
    # One text with one word, twice in it: idf log(1 + 0.5 / 1.5), and 2 * 2.2 / (2 + 1.2).
    assert Index(["x x"]).scores("x") == pytest.approx([math.log(4 / 3) * 4.4 / 3.2])


def test_the_cosine_is_one_for_the_same_words_and_none_for_others() -> None:
    index = Index(["the red bird", "bird red the", "a stone"], "tfidf")
    assert index.scores("red the bird") == pytest.approx([1, 1, 0])
    assert 0 < index.scores("the bird")[0] < 1
    assert index.scores("mat") == [0, 0, 0]


def test_ties_go_to_the_first_and_letters_of_other_scripts_are_words() -> None:
    assert Index(["a b", "b a", "a b"]).ranked("b a") == [0, 1, 2]
    assert Index(["x", "y", "z"]).ranked("nothing") == [0, 1, 2]
    assert words("Straße, 東京 and カタ!") == ["straße", "東", "京", "and", "カ", "タ"]


# --- what is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["bm25", "tfidf"])
def test_the_likest_come_last(similarity) -> None:
    aligned = align(k=2, similarity=similarity)
    assert prompts(aligned, "what is the colour of the sun?") == [POOL[3]["prompt"], POOL[1]["prompt"],
                                                                  "what is the colour of the sun?"]  # fmt: skip
    roles = [m["role"] for m in aligned.conversation("the sea?")]
    assert roles == ["user", "assistant"] * 2 + ["user"]


def test_the_last_message_of_the_user_is_looked_up() -> None:
    talk = [
        {"role": "system", "content": "sea"}, {"role": "user", "content": "name the colour of the sea"},
        {"role": "assistant", "content": "blue"}, {"role": "user", "content": "paint a boat"},
    ]  # fmt: skip
    aligned = align(k=1, instruction="Be kind.")
    found = aligned.conversation(talk)
    assert found[0] == {"role": "system", "content": "Be kind.\n\nsea"}
    assert found[1]["content"] == POOL[2]["prompt"]
    assert found[3:] == talk[1:]


def test_the_asked_prompt_itself_is_left_out_unless_wanted() -> None:
    asked = " name  the colour of the sun "
    assert POOL[1]["prompt"] not in prompts(align(k=3), asked)
    assert prompts(align(k=3, leave_out_asked=False), asked)[-2] == POOL[1]["prompt"]
    assert len(prompts(align(k=9), asked)) == len(POOL)


def test_demonstrations_stay_within_their_room() -> None:
    model = tiny_model()
    aligned = align(model, k=4)
    modifier = aligned.modifiers[0]
    assert modifier.budget == 128
    sizes = [
        len(model.encode_prompt(row["prompt"])) + len(model.encode_pair("x", row["completion"])[1]) for row in POOL
    ]
    for query in ("name the colour of the sun", "paint", "x"):
        taken = modifier.chosen(query)
        assert sum(modifier.sizes[at] for at in taken) <= 128
    # The likest does not fit, so the next ones are taken.
    asked = "name the colour of the sun at night, please"
    assert modifier.chosen(asked)[-1] == 3
    small = align(model, k=2, max_tokens=modifier.sizes[3] - 1).modifiers[0]
    assert small.chosen(asked) == [1]
    assert all(size <= 16 + known for size, known in zip(sizes, modifier.sizes))
    with pytest.raises(RecordError, match="The shortest of 4 demonstrations takes"):
        align(model, max_tokens=5)


def test_a_demonstration_that_asks_nothing_is_refused() -> None:
    silent = {"prompt": [{"role": "assistant", "content": "hello"}], "completion": "and more"}
    with pytest.raises(RecordError, match="Record 2: a demonstration without a message of a user"):
        RetrievedDemonstrations().align(tiny_model(), [POOL[0], silent])


def test_the_same_query_sees_the_same_examples_after_saving(tmp_path) -> None:
    aligned = align(k=2)
    before = aligned.conversation("what is the sun?")
    aligned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.modifiers == aligned.modifiers
    assert again.conversation("what is the sun?") == before
    assert "2 of 4, bm25" in again.modifiers[0].label


def test_remote_models_count_characters() -> None:
    remote = RemoteModel("x", base_url="http://127.0.0.1:9/v1")
    modifier = align(remote, max_tokens=40).modifiers[0]
    assert modifier.budget == 120
    assert modifier.sizes[0] == len("name the colour of the sea") + 24 + len("blue") + 24
    assert align(remote).modifiers[0].budget is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is a number"),
        ({"similarity": "cosine"}, "similarity is one of bm25, tfidf"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"leave_out_asked": 1}, "true or false"),
        ({"instruction": None}, "instruction is a text"),
        ({"style": "x"}, "style is one of"),
    ],
)
def test_settings_that_cannot_work(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        align(**settings)


def test_recipe_and_command_line(tmp_path) -> None:
    from typer.testing import CliRunner

    from truing.cli.app import app

    recipe, _ = parse(find_recipe("retrieved-demonstrations")[1], "retrieved-demonstrations")
    assert [step.method for step in recipe.steps] == ["retrieved_demonstrations"]
    out = tmp_path / "shown"
    words = ["align", "retrieved-demonstrations", "--model", "sandbox/small", "--records", "sandbox/demonstrations"]
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--k", "2"])
    assert done.exit_code == 0, done.output
    assert len(load(out).modifiers[0].pool) == 600
