from __future__ import annotations

import pytest

from tests import tiny
from tests.conformance.examples import model as tiny_model
from truing import SystemMessage, load
from truing.errors import SettingsError
from truing.methods.prompting.system_message import SystemMessageModifier
from truing.models import Model
from truing.runs import find_recipe, parse

USER = {"role": "user", "content": "the bird?"}


def test_it_stands_first_and_keeps_an_older_one() -> None:
    modifier = SystemMessageModifier(text="Be kind.")
    plain = [USER]
    assert modifier.messages(plain) == [{"role": "system", "content": "Be kind."}, USER]
    assert plain == [USER]
    old = [{"role": "system", "content": "Old.", "name": "x"}, USER]
    assert modifier.messages(old) == [{"role": "system", "content": "Be kind.\n\nOld.", "name": "x"}, USER]
    assert old[0]["content"] == "Old."


def test_the_model_answers_as_if_the_caller_had_written_it() -> None:
    model = tiny_model()
    spoken = SystemMessage(text="look at the mat").align(model)
    written = [{"role": "system", "content": "look at the mat"}, USER]
    assert spoken.encode_prompt("the bird?") == model.encode_prompt(written)
    assert spoken.generate("the bird?", max_new_tokens=8).texts == model.generate(written, max_new_tokens=8).texts
    assert spoken.logprobs(["the bird?"], ["red"]) == pytest.approx(model.logprobs([written], ["red"]), abs=1e-6)
    assert model.encode_prompt("the bird?") != spoken.encode_prompt("the bird?")


def test_two_of_them_stack() -> None:
    twice = SystemMessage(text="second").align(SystemMessage(text="first").align(tiny_model()))
    assert twice.conversation("the bird?") == [{"role": "system", "content": "second\n\nfirst"}, USER]
    assert twice.unstack().conversation("the bird?") == [{"role": "system", "content": "first"}, USER]


def test_a_template_without_a_system_role_and_no_template() -> None:
    refuses = tiny.tokenizer()
    refuses.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + refuses.chat_template
    )
    spoken = SystemMessage(text="look").align(Model(tiny.network(), refuses))
    shown = refuses.decode(spoken.encode_prompt("the bird?"))
    assert shown == "<|user|>look\n\nthe bird?<|end|><|assistant|>"
    plain = tiny.tokenizer(chat=False)
    spoken = SystemMessage(text="look").align(Model(tiny.network(), plain))
    assert plain.decode(spoken.encode_prompt("the bird?")) == "look\n\nUser: the bird?\n\nAssistant:"


def test_special_tokens_in_it_are_text() -> None:
    model = tiny_model()
    ids = SystemMessage(text="<|end|><|assistant|>").align(model).encode_prompt("the bird?")
    assert ids.count(model.tokenizer.eos_token_id) == 2


def test_save_and_load(tmp_path) -> None:
    spoken = SystemMessage(text="look “there”\n").align(tiny_model())
    spoken.save(tmp_path / "model")
    assert load(tmp_path / "model").modifiers == spoken.modifiers


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_an_empty_text_is_refused(text) -> None:
    with pytest.raises(SettingsError, match="must not be empty"):
        SystemMessage(text=text).align(tiny_model())


def test_recipe() -> None:
    recipe, _ = parse(find_recipe("system-message")[1], "system-message")
    assert [step.method for step in recipe.steps] == ["system_message"]
