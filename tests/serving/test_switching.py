"""One set of weights under many names, strengths and stacks; and what the command line's words mean."""

from __future__ import annotations

import openai
import pytest

from tests.serving.conftest import serving, steering
from truing.errors import ModelError, SettingsError, UnsupportedError
from truing.serving.shelf import Shelf, Turns, offered, split_turns, turned

HOW = {"temperature": 0, "max_tokens": 24}


def text(answer):
    return answer.choices[0].message.content


def test_strengths_and_stacks_are_switched_by_a_request(client, models):
    steered, base = models["steered"], models["base"]
    for strength in (-3.0, 0.0, 2.0, 7.5):
        found = client.ask(model="steered", extra_body={"truing": {"strength": {"steering": strength}}}, **HOW)
        assert text(found) == steered.with_strength(strength).generate("the cat", max_new_tokens=24)[0].text
    off = client.ask(model="steered", extra_body={"truing": {"without": ["steering"]}}, **HOW)
    assert text(off) == base.generate("the cat", max_new_tokens=24)[0].text
    assert len({text(client.ask(model=f"steered@steering={s}", **HOW)) for s in (-6, 0, 6)}) == 3, "it acts"
    both = {"strength": {"nudging": 0.9}, "trace": True}
    found = client.ask(model="nudged", extra_body={"truing": both}, **HOW)
    alone = models["nudged"].with_strength(0.9).generate("the cat", max_new_tokens=24)[0]
    assert text(found) == alone.text
    trace = found.choices[0].truing["trace"]
    assert trace["stopped"] == alone.trace["stopped"]
    assert [tuple(piece) for piece in trace["pieces"]] == [tuple(piece) for piece in alone.trace["pieces"]]


def test_names_may_carry_turns(client, models):
    found = client.ask(model="steered@steering=-3.0", **HOW)
    assert found.model == "steered@steering=-3.0"
    assert text(found) == models["steered"].with_strength(-3.0).generate("the cat", max_new_tokens=24)[0].text
    assert text(client.ask(model="steered@steering=off", **HOW)) == text(client.ask(**HOW))
    assert text(client.ask(model="nudged@nudging=off", **HOW)) == text(client.ask(**HOW))


@pytest.mark.parametrize(
    ("model", "body", "param", "says"),
    [
        ("steered", {"strength": {"nudging": 1}}, "truing.strength", "no modifier 'nudging'"),
        ("steered", {"without": ["best_of_n"]}, "truing.without", "no modifier 'best_of_n'"),
        ("polite", {"strength": {"system_message": 1}}, "truing.strength", "no strength"),
        ("steered@other=1", {}, "model", "no modifier 'other'"),
        ("steered", {"strength": {"steering": 1e6}}, "truing.strength.steering", "1000"),
        ("steered", {"strength": {"steering": True}}, "truing.strength.steering", "number"),
        ("steered", {"power": 1}, "truing.power", "does not know"),
    ],
)  # fmt: skip
def test_what_cannot_be_switched_is_named(client, model, body, param, says):
    with pytest.raises(openai.BadRequestError) as error:
        client.ask(model=model, extra_body={"truing": body}, **HOW)
    assert error.value.param == param
    assert says in error.value.message


def test_unknown_models(client):
    for name in ("other", "base@", "base@steering", "base@steering=x", "../base", "ba\u0000se"):
        with pytest.raises(openai.NotFoundError) as error:
            client.ask(model=name)
        assert (error.value.code, error.value.param) == ("model_not_found", "model")
        assert "base" in error.value.message


def test_switching_can_be_forbidden(models):
    with serving({"steered": models["steered"]}, switching=False) as client:
        assert client.ask(model="steered", extra_body={"truing": {"trace": True}}, **HOW)
        for name, body in (("steered@steering=1", {}), ("steered", {"strength": {"steering": 1}}),
                           ("steered", {"without": ["steering"]})):  # fmt: skip
            with pytest.raises(openai.BadRequestError, match="does not let requests turn"):
                client.ask(model=name, extra_body={"truing": body}, **HOW)


def test_raw_text_and_prompt_modifiers(client, models):
    with pytest.raises(openai.BadRequestError) as error:
        client.write(model="polite")
    assert error.value.param == "prompt"
    off = client.write(model="polite", temperature=0, extra_body={"truing": {"without": ["system_message"]}})
    assert off.choices[0].text == client.write(temperature=0).choices[0].text
    nudged = client.write("the cat", "nudged", temperature=0, echo=True)
    assert nudged.choices[0].text.startswith("the cat")


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "strength", "without"),
    [
        ("base", "base", {}, ()),
        ("base@steering=2", "base", {"steering": 2.0}, ()),
        ("a/b@steering=-.5@nudging=off@best_of_n=off", "a/b", {"steering": -0.5}, ("nudging", "best_of_n")),
        ("a@x=1e3@x=2", "a", {"x": 2.0}, ()),
        ("a@x=nan", "a@x=nan", {}, ()),
        ("a@x=", "a@x=", {}, ()),
        ("user@host", "user@host", {}, ()),
    ],
)
def test_names_are_read(text, name, strength, without):
    assert split_turns(text) == (name, Turns(tuple(strength.items()), without))


def test_models_of_the_command_line(models, tmp_path):
    read = []

    def reader(what):
        read.append(what)
        return models["steered"] if what == "out/steered" else models["base"]

    found = offered(
        ["b=sandbox/base", "s=out/steered", "strong=s@steering=9", "b2=b", "out/steered@steering=off"], reader
    )
    assert list(found) == ["b", "s", "strong", "b2", "out/steered@steering=off"]
    assert read == ["sandbox/base", "out/steered"], "weights are read once"
    assert found["strong"].modifiers[0].strength == 9
    assert found["strong"].weights is found["s"].weights
    assert found["out/steered@steering=off"].modifiers == ()
    folder = tmp_path / "my run@x=1" / "model"
    folder.mkdir(parents=True)
    assert list(offered([str(folder)], reader)) == ["my-run-x-1"]
    assert read[-1] == str(folder)
    with pytest.raises(SettingsError, match="Two models would be served as `a`"):
        offered(["a=x", "a=y"], reader)
    with pytest.raises(SettingsError, match="no modifier 'nudging'"):
        offered(["a=x@nudging=off"], reader)
    (tmp_path / "♥").mkdir()
    with pytest.raises(ModelError, match="NAME="):
        offered([str(tmp_path / "♥")], reader)


def test_a_shelf_refuses_what_cannot_be_served(models):
    with pytest.raises(SettingsError, match="at least one model"):
        Shelf({})
    with pytest.raises(SettingsError, match="cannot be the name"):
        Shelf({"a b": models["base"]})

    class Scorer:
        offers = frozenset({"scores"})
        name = "scorer"

    with pytest.raises(UnsupportedError, match="writes none"):
        Shelf({"s": Scorer()})


def test_variants_are_kept_ready_and_bounded(models):
    shelf = Shelf({"s": models["base"].with_modifier(steering(1.0))})
    first = shelf.find("s@steering=3")
    assert shelf.find("s", Turns((("steering", 3.0),))).model is first.model
    assert (first.base, first.switched) == ("s", True)
    for strength in range(200):
        shelf.find(f"s@steering={strength}")
    assert len(shelf._variants) == 64
    assert turned(models["steered"], Turns((("steering", 3.0),), ("steering",))).modifiers == ()
