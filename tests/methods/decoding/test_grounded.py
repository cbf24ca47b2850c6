"""Grounded decoding: the checks of its page, and equality with the rule written out over the whole vocabulary."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.examples import PROMPTS, like_the_cat
from tests.conformance.examples import model as tiny_model
from tests.methods.decoding.nudging_parts import Ends
from tests.vector_adapters.grounded_decoding import PROMPT, Bigrams, phrases, skill_scoring
from truing import Affordance, Avoid, BestOfN, GroundedDecoding, Prefer, SayCan, SystemMessage, Tempered, load
from truing.errors import RewardError, SettingsError, StackError, UnsupportedError
from truing.methods.decoding import grounded_rules as rules
from truing.methods.decoding.grounded_scorers import Grounding
from truing.methods.decoding.grounded_words import Words
from truing.models.engine import Engine
from truing.models.sampling import noise_stream, race, truncate
from truing.models.types import Sampling
from truing.rewards.partial import observed, readable, score_partial

SKILLS = {"the cat sat.": 0.9, "the bird.": 0.5, "look at the stone.": 0.05, "it is grey.": 0.7}
CAN = Affordance(skills=SKILLS)
HOW = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def one(prompts, responses):
    """A grounding function that says nothing."""
    return np.ones(len(responses))


def naive(model, prompt, scorers, *, beam=1, terminal=(), every=True, strict=True, sampling=None, most=12, draw=0):
    """The rule as the paper prints it: one pass for each beam and token, every token of the vocabulary judged."""
    engine = Engine(model)
    sampling = sampling or Sampling(max_new_tokens=most)
    ids = model.encode_prompt(prompt)
    special = {at for at, token in model.tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(range(len(model.tokenizer), 1000))
    scorers = [observed(scorer, [prompt]) for scorer in scorers]
    beams = [([], "", 0.0, 0.0, None)]
    while any(reason is None for *_, reason in beams):
        found = []
        for at, (tokens, text, logprob, ground, reason) in enumerate(beams):
            if reason is not None:
                found.append((-(logprob + ground), -1, at, beams[at]))
                continue
            logits = engine.prefill([[*ids, *tokens]]).logits
            logprobs = logits[0].double().log_softmax(0)
            keys = logprobs
            if sampling.temperature:
                cut = truncate(logits, sampling).double().log_softmax(1)
                keys = race(cut, sampling.seed, [noise_stream(ids, draw)], len(tokens))[0]
            kept = [
                token for token in range(len(keys))
                if keys[token] > -math.inf and not (strict and token in special - engine.ends)
            ]  # fmt: skip
            whole, partial = [], []
            for token in kept:
                said = text if token in engine.ends else engine.text([*tokens, token])
                cuts = [said.find(end) + len(end) for end in terminal if end in said]
                why = "stop" if cuts or token in engine.ends else None
                said = said[: min(cuts)] if cuts else said
                (whole if why else partial).append((token, said, why))
            for part, ask in ((whole, lambda s, p, t: np.asarray(s(p, t))), (partial, score_partial)):
                values = [ask(scorer, [prompt] * len(part), [said for _, said, _ in part]) for scorer in scorers]
                for row, (token, said, why) in enumerate(part):
                    each = [max(float(v[row]), 1e-6) for v in values]
                    if strict and any(value <= 1e-6 for value in each):
                        continue
                    log = sum(map(math.log, each))
                    why = why or ("length" if len(tokens) + 1 >= most else None)
                    new = (
                        [*tokens, token],
                        said,
                        logprob + float(logprobs[token]),
                        (ground if every else 0) + log,
                        why,
                    )
                    rank = float(keys[token]) + log / (sampling.temperature or 1) if beam == 1 else new[2] + new[3]
                    found.append((-rank, at, token, new))
        assert found, "everything is at the floor"
        beams = [new for *_, new in sorted(found, key=lambda each: each[:3])[:beam]]
    return sorted(beams, key=lambda each: -(each[2] + each[3]))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("strict", [True, False])
def test_greedy_is_the_rule_over_the_whole_vocabulary(architecture, strict):
    model = tiny_model(architecture)
    scorers = [Prefer(words=["a", "the", "cat"]), Avoid(words=["o", "i", "is"])]
    aligned = GroundedDecoding(scorers=scorers, strict=strict).align(model)
    for prompt, found in zip(PROMPTS, aligned.generate(PROMPTS, **HOW)):
        tokens, text, logprob, ground, reason = naive(model, prompt, scorers, strict=strict)[0]
        assert found.tokens == tokens
        assert (found.text, found.finish_reason) == (text, reason)
        np.testing.assert_allclose([found.trace["logprob"], found.trace["grounding"]], [logprob, ground], atol=1e-4)


@pytest.mark.parametrize("every", [True, False], ids=["every_prefix", "final_only"])
@pytest.mark.parametrize("strict", [True, False])
def test_beams_are_the_rule_over_the_whole_vocabulary(model, every, strict):
    scorers = [
        Prefer(words=["a", "the", "cat"]),
        Avoid(words=["o", "i"]),
        Tempered(reward=like_the_cat, tau=0.3, high=1.0),
    ]
    aligned = GroundedDecoding(
        scorers=scorers,
        strict=strict,
        beam=3,
        accumulate="every_prefix" if every else "final_only",
        terminal=["s", "e"],
    ).align(model)
    found = aligned.generate(PROMPTS, max_new_tokens=6, n=3).grouped()
    for prompt, answers in zip(PROMPTS, found):
        expected = naive(model, prompt, scorers, beam=3, every=every, strict=strict, terminal=["s", "e"], most=6)
        assert answers[0].tokens == expected[0][0]
        assert answers[0].trace["score"] == pytest.approx(expected[0][2] + expected[0][3], abs=1e-4)
        assert [answer.tokens for answer in answers] == [each[0] for each in expected]


@pytest.mark.parametrize("cut", [{}, {"top_k": 20}, {"top_p": 0.8}], ids=["all", "top_k", "top_p"])
def test_samples_are_draws_from_the_grounded_distribution(model, cut):
    scorers = [Prefer(words=["a", "the", "cat"]), Avoid(words=["o", "i"], epsilon=0.01)]
    aligned = GroundedDecoding(scorers=scorers).align(model)
    sampling = Sampling(max_new_tokens=8, temperature=0.7, seed=4, **cut)
    found = aligned.generate(PROMPTS, max_new_tokens=8, temperature=0.7, seed=4, n=2, **cut)
    for at, (prompt, draw) in enumerate((prompt, draw) for prompt in PROMPTS for draw in range(2)):
        assert found[at].tokens == naive(model, prompt, scorers, sampling=sampling, most=8, draw=draw)[0][0]


def test_the_first_token_is_drawn_with_its_grounded_probability(model):
    scorer = Prefer(words=["a"], present=1.0, absent=0.02, whole_words=False)
    aligned = GroundedDecoding(scorers=[scorer], strict=False).align(model)
    drawn = aligned.generate(PROMPTS[0], max_new_tokens=1, temperature=1.0, n=400, seed=2)
    engine = Engine(model)
    logprobs = engine.prefill([model.encode_prompt(PROMPTS[0])]).logits[0].double().log_softmax(0)
    texts = ["" if token in engine.ends else engine.text([token]) for token in range(len(logprobs))]
    weights = logprobs.exp() * torch.tensor(scorer([""] * len(texts), texts))
    share = float(weights[["a" in text for text in texts]].sum() / weights.sum())
    assert 0.2 < share < 0.95
    error = math.sqrt(share * (1 - share) / 400)
    assert abs(np.mean(["a" in each.text for each in drawn]) - share) < 4 * error


def test_a_constant_is_plain_decoding(model):
    for how in (HOW, {**HOW, "temperature": 0.9, "seed": 3, "n": 2}, {**HOW, "temperature": 0.9, "top_p": 0.7}):
        plain = model.generate(PROMPTS, **how)
        for scorers in ([one], [lambda prompts, responses: np.full(len(responses), 0.2)], [one, one]):
            found = GroundedDecoding(scorers=scorers, strict=False).align(model).generate(PROMPTS, **how)
            assert [each.tokens for each in found] == [each.tokens for each in plain]
            assert [each.finish_reason for each in found] == [each.finish_reason for each in plain]
    weightless = GroundedDecoding(scorers=[CAN], strength=0).align(model).generate(PROMPTS, **HOW)
    assert [each.tokens for each in weightless] == [each.tokens for each in model.generate(PROMPTS, **HOW)]
    assert "grounding" not in weightless.usage.calls
    stopped = GroundedDecoding(scorers=[one], strict=False).align(model).generate(PROMPTS, **HOW, stop=["e", "s"])
    assert stopped.texts == model.generate(PROMPTS, **HOW, stop=["e", "s"]).texts


def test_one_hot_is_constrained_decoding(model):
    allowed = ["the cat sat.", "it is grey.", "café!"]
    for how in ({"beam": 1}, {"beam": 3}):
        aligned = GroundedDecoding(scorers=[Affordance(skills=allowed)], **how).align(model)
        found = aligned.generate(PROMPTS, max_new_tokens=40)
        assert {each.text.removeprefix(" ") for each in found} <= set(allowed)
        assert {each.finish_reason for each in found} == {"stop"}
    # Letters of several bytes: no token leads into a letter that no skill has.
    for skill in ("café!", "日本 — naïve"):
        only = GroundedDecoding(scorers=[Affordance(skills=[skill])]).align(model)
        for seed in range(3):
            found = only.generate(PROMPTS, max_new_tokens=40, temperature=1.0, seed=seed)
            assert [text.removeprefix(" ") for text in found.texts] == [skill] * 3
            assert all("".join(step["token"] for step in each.trace["steps"]) == each.text for each in found)
    ended = GroundedDecoding(scorers=[Affordance(skills=allowed[:2])], terminal=["."]).align(model)
    for found in ended.generate(PROMPTS, max_new_tokens=40):
        assert found.text.endswith(".")
        assert found.tokens[-1] != model.tokenizer.eos_token_id


def test_a_beam_of_one_is_greedy_and_the_paper_s_and_the_derivation_s_greedy_agree(model):
    greedy = GroundedDecoding(scorers=[CAN, Prefer(words=["cat"])], terminal=["."]).align(model)
    final = GroundedDecoding(scorers=[CAN, Prefer(words=["cat"])], terminal=["."], accumulate="final_only").align(model)
    found, other = (each.generate(PROMPTS, max_new_tokens=30) for each in (greedy, final))
    assert found.texts == other.texts
    assert [each.trace["logprob"] for each in found] == [each.trace["logprob"] for each in other]
    assert found[0].trace["grounding"] < other[0].trace["grounding"]


def test_the_order_of_scorers_and_constant_factors_do_not_matter_for_greedy(model):
    def scaled(prompts, responses):
        return 0.3 * np.asarray(CAN.partial(prompts, responses))

    scorers = [CAN, Prefer(words=["bird", "grey"]), Avoid(words=["cat"])]
    texts = [
        GroundedDecoding(scorers=order, terminal=["."]).align(model).generate(PROMPTS, max_new_tokens=30).texts
        for order in (scorers, scorers[::-1], [scorers[1], scorers[2], scorers[0]])
    ]
    assert texts[0] == texts[1] == texts[2]
    weighed = [
        GroundedDecoding(scorers=[each, scorers[2]], terminal=["."], strict=False).align(model).generate(PROMPTS, **HOW)
        for each in (lambda prompts, texts: CAN.partial(prompts, texts), scaled)
    ]
    assert weighed[0].texts == weighed[1].texts


def test_forced_text_is_read_in_one_pass_and_changes_nothing(model):
    only = Affordance(skills=["look at the small red bird."])

    class Unforced:
        """The same without telling how it goes on."""

        bounds = only.bounds

        def __call__(self, prompts, responses):
            return only(prompts, responses)

        def partial(self, prompts, texts):
            return only.partial(prompts, texts)

    for terminal in ([], ["."]):
        for how in ({}, {"temperature": 0.8, "seed": 2, "n": 2}):
            given = {"max_new_tokens": 40, **how}
            fast = GroundedDecoding(scorers=[only], terminal=terminal).align(model).generate(PROMPTS, **given)
            slow = GroundedDecoding(scorers=[Unforced()], terminal=terminal).align(model).generate(PROMPTS, **given)
            assert [each.tokens for each in fast] == [each.tokens for each in slow]
            np.testing.assert_allclose(
                [each.trace["logprob"] for each in fast], [each.trace["logprob"] for each in slow], atol=1e-4
            )
    assert slow.usage.calls["model"] >= max(len(each.tokens) for each in slow)
    assert fast.usage.calls["model"] <= slow.usage.calls["model"]
    # A model that is likely to say it as it is written reads all of it at once.
    sandbox = load("sandbox/base")
    said = sandbox.generate("Hello. What is the colour of the sky? Thanks.", max_new_tokens=30)[0]
    forced = GroundedDecoding(scorers=[Affordance(skills=[said.text])]).align(sandbox)
    again = forced.generate("Hello. What is the colour of the sky? Thanks.", max_new_tokens=30)
    assert again[0].tokens == said.tokens
    assert again.usage.calls["model"] <= 3 < len(said.tokens)


def test_few_texts_are_judged(model):
    aligned = GroundedDecoding(scorers=[Prefer(words=["cat"]), Avoid(words=["o"])], strict=False).align(model)
    found = aligned.generate(PROMPTS, **HOW)
    assert found.usage.positions["grounding"] == 2 * sum(each.trace["judged"] for each in found)
    # A model this random needs some; the whole vocabulary would be 320 a token.
    assert sum(each.trace["judged"] for each in found) < 20 * sum(len(each.tokens) for each in found)
    assert found.usage.calls["model"] == 12


def test_all_beams_of_all_prompts_share_a_pass(model):
    aligned = GroundedDecoding(scorers=[Prefer(words=["cat", "a"])], beam=4, strict=False).align(model)
    assert aligned.generate(PROMPTS, **HOW).usage.calls["model"] == 12
    together = aligned.generate(PROMPTS, max_new_tokens=8, n=2)
    alone = [each for prompt in PROMPTS for each in aligned.generate(prompt, max_new_tokens=8, n=2)]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert [each.trace["judged"] for each in together] == [each.trace["judged"] for each in alone]
    narrow = aligned.generate(PROMPTS, max_new_tokens=8, n=2, batch_size=1)
    assert [each.tokens for each in narrow] == [each.tokens for each in together]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_beams_on_every_architecture_and_padding_side(architecture, tmp_path):
    texts = []
    for side in ("left", "right"):
        aligned = GroundedDecoding(scorers=[CAN, Prefer(words=["grey"])], beam=3, terminal=["."]).align(
            tiny_model(architecture, padding_side=side)
        )
        texts.append(aligned.generate(PROMPTS, max_new_tokens=24).texts)
    assert texts[0] == texts[1]
    assert {text.removeprefix(" ") for text in texts[0]} <= set(SKILLS)
    aligned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.modifiers == aligned.modifiers
    assert again.generate(PROMPTS, max_new_tokens=24).texts == texts[1]


@pytest.mark.parametrize("seed", range(20))
def test_final_only_with_enough_beams_picks_what_saycan_picks(seed):
    rng = np.random.default_rng(seed)
    words = ["pick", "place", "apple", "knife", "red", "block", "."]
    inputs = {
        "vocabulary": words,
        "lm_bigram_logits": {word: rng.normal(0, 2, len(words)).tolist() for word in ("<s>", *words)},
        "phrases": [
            {"tokens": text.split(), "value": float(rng.uniform(0.01, 1))}
            for text in (
                "pick apple .", "pick knife .", "pick red block .", "place apple .", "place red block .", "pick ."
            )
        ],
    }  # fmt: skip
    said, can = Bigrams(inputs, {"terminal": ["."]}), phrases(inputs)
    group = rules.Group(
        PROMPT, said, [rules.Hypothesis([], "", 0.0, 0.0, np.zeros(1))], lambda scores, step: scores.log_softmax(0),
        1.0, 6, wanted=6,
    )  # fmt: skip
    rules.decode(
        [group], said, Grounding([can], [PROMPT], 1e-6, lambda *n: None), rules.Rule(width=6, every_prefix=False)
    )
    scored = skill_scoring({**inputs, "skills": inputs["phrases"]}, {})
    order = np.argsort([-each["score"] for each in scored["skills"]])
    skills = [" ".join(each["tokens"]) for each in inputs["phrases"]]
    assert [one.text.strip() for one in group.over] == [skills[at] for at in order]
    scores = [scored["skills"][at]["score"] for at in order]
    np.testing.assert_allclose([one.logprob + one.grounding for one in group.over], scores)


def test_somebody_who_talks_at_random_gets_further_when_grounded():
    from truing.sandbox.skills import Household

    all_ = [
        "go to the hall.", "go to the kitchen.", "go to the garden.", "open the kitchen door.", "open the garden door.",
        "unlock the kitchen door.", "unlock the garden door.", "pick up the apple.", "pick up the key.",
        "put down the apple.",
    ]  # fmt: skip
    states = [
        {
            "room": "hall", "doors": {"kitchen": one, "garden": two, "cellar": "open", "study": "open"},
            "things": {"apple": "kitchen", "key": "hall", "cup": "study", "book": "study", "lamp": "study"},
            "errand": ["apple", "garden"],
        }
        for one in ("open", "closed", "locked") for two in ("open", "closed", "locked")
    ]  # fmt: skip
    words = sorted({word for skill in all_ for word in skill.removesuffix(".").split()} | {"."})
    follow = {word: [-9.0] * len(words) for word in ("<s>", *words)}
    for skill in all_:
        said = ["<s>", *skill.removesuffix(".").split(), "."]
        for one, two in itertools.pairwise(said):
            follow[one][words.index(two)] = 0.0
    inputs = {"vocabulary": words, "lm_bigram_logits": follow}
    spoken = {skill: " ".join([*skill.removesuffix(".").split(), ". "]) for skill in all_}

    def errands(scorers):
        homes, steps = [Household.of(state) for state in states], []
        for number in range(30):
            model = Bigrams(inputs, {"terminal": ["."]})
            model.rows = [[] for _ in homes]
            prompts = [home.conversation() for home in homes]
            groups = [
                rules.Group(
                    prompt, model, [rules.Hypothesis([], "", 0.0, 0.0, np.zeros(len(scorers)), row=at)],
                    lambda scores, step, at=at, number=number: race(scores.log_softmax(0)[None], number, [at], step)[0],
                    1.0, 8,
                )
                for at, prompt in enumerate(prompts)
            ]  # fmt: skip
            rules.decode(groups, model, Grounding(scorers, prompts, 1e-6, lambda *n: None), rules.Rule())
            for home, group in zip(homes, groups):
                said = next((skill for skill, text in spoken.items() if text == group.over[0].text), "")
                steps.append(home.done or home.step(said))
        return sum(home.done for home in homes), np.mean(steps)

    def value(prompts, responses):
        feasible = dict(zip(spoken.values(), spoken))
        return [float(Household.of(p[0]["state"]).feasible(feasible[r])) for p, r in zip(prompts, responses)]

    alone, possible = errands([])
    grounded, always = errands([Affordance(skills=list(spoken.values()), value=value)])
    assert possible < 0.5
    assert always == 1.0
    assert grounded > alone + 2, (grounded, alone)


def test_the_world_is_looked_at_anew_for_each_generation(model):
    looked = []
    world = {"the cat sat.": 1.0, "it is grey.": 0.0}

    def value(prompts, responses):
        looked.append(len(responses))
        return [world[skill] for skill in responses]

    aligned = GroundedDecoding(scorers=[Affordance(skills=list(world), value=value)], terminal=["."]).align(model)
    assert set(aligned.generate([*PROMPTS, PROMPTS[0]], max_new_tokens=30).texts) <= {"the cat sat.", " the cat sat."}
    assert looked == [6]  # two skills for each of three different conversations, once
    world.update({"the cat sat.": 0.0, "it is grey.": 1.0})
    assert set(aligned.generate(PROMPTS, max_new_tokens=30).texts) <= {"it is grey.", " it is grey."}


def test_a_state_in_the_conversation_reaches_the_scorers_and_not_the_model(model):
    def value(prompts, responses):
        return [float(skill.startswith(prompt[0]["state"])) for prompt, skill in zip(prompts, responses)]

    aligned = GroundedDecoding(
        scorers=[Affordance(skills=["the cat.", "it is grey."], value=value)], terminal=["."]
    ).align(model)
    asked = [[{"role": "user", "content": "what?", "state": start}] for start in ("the", "it")]
    assert [text.strip() for text in aligned.generate(asked, max_new_tokens=30).texts] == ["the cat.", "it is grey."]
    assert model.encode_prompt(asked[0]) == model.encode_prompt("what?")


def test_brackets_switch_grounding_on_and_off(model):
    engine = Engine(model)
    judged = []

    def watching(prompts, responses):
        judged.extend(responses)
        return [0.001 if "z" in text else 1.0 for text in responses]

    aligned = GroundedDecoding(scorers=[watching], brackets=["t", "e"], strict=False).align(model)
    found = aligned.generate(PROMPTS, max_new_tokens=20)
    assert all("t" not in text[:1] and "e" not in text for text in judged)
    plain = model.generate(PROMPTS, max_new_tokens=20)
    for free, text in zip(plain, found):
        start = next((at for at, _ in enumerate(free.tokens) if "t" in engine.text(free.tokens[: at + 1])), 20)
        assert text.tokens[:start] == free.tokens[:start]
        assert all(step["grounding"] == [0.0] for step in text.trace["steps"][:start])
    rule = rules.Rule(brackets=("[", "]"))
    assert rule.judged("go", False) == []
    assert rule.judged("take [the app", False) == [("the app", False)]
    assert rule.judged("take [the apple] and [a kn", True) == [("the apple", True), ("a kn", True)]
    assert rules.Rule().judged("take", False) == [("take", False)]


def test_a_bracket_grounds_a_thought_and_not_what_follows():
    class Letters:
        """A model of letters that wants to write one text."""

        words = [*"abckx []."]

        def __init__(self, wanted):
            self.wanted, self.rows = wanted, [[]]

        def after(self, tokens):
            scores = torch.full((len(self.words),), -5.0)
            scores[self.words.index(self.wanted[len(tokens)])] = 1.0
            return scores

        def start(self):
            return [self.after([])]

        def advance(self, rows, blocks, keep):
            self.rows = [[*self.rows[row][:kept], *block] for row, block, kept in zip(rows, blocks, keep)]
            return [self.after(row)[None] for row in self.rows]

        def text(self, before, tokens, token):
            text = before + self.words[token]
            return text, "stop" if text.endswith(".") else None

        def silent(self, token):
            return False

        def beginning(self, letters, count):
            return torch.tensor([word in letters for word in self.words])

    source = Letters("k[bkc]k.")
    group = rules.Group(
        "p",
        source,
        [rules.Hypothesis([], "", 0.0, 0.0, np.zeros(1))],
        lambda s, step: s.double().log_softmax(0),
        1.0,
        8,
    )
    avoid = Avoid(words=["k"], whole_words=False)
    rules.decode([group], source, Grounding([avoid], ["p"], 1e-6, lambda *n: None), rules.Rule(brackets=("[", "]")))
    said = group.over[0].text
    assert said[0] == "k"
    assert said[:3] == "k[b"
    assert said[3] != "k"
    assert said[4:] == "c]k."


def test_terminals_may_be_special_tokens_and_stand_inside_a_token(model):
    engine = Engine(model)
    words = Words(engine, "p", ["<|user|>", "at", "e"], [])
    user = model.tokenizer.convert_tokens_to_ids("<|user|>")
    assert words.text("so", [5], user) == ("so", "stop")
    the = model.tokenizer.encode(" the", add_special_tokens=False)
    assert len(the) == 1
    assert words.text("sit", model.tokenizer.encode("sit"), the[0]) == ("sit the", "stop")
    assert Words(engine, "p", ["h"], ["t"]).text("", [], the[0]) == (" ", "stop")


def test_texts_of_growing_answers_equal_those_decoded_at_once(model):
    engine, words = Engine(model), Words(Engine(model), "p", [], [])
    for text in ("the cat, and the café naïve 日本 look!", "é", " grey\n\nbird"):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        said = ""
        for at, token in enumerate(ids):
            said, reason = words.text(said, ids[:at], token)
            assert (readable(said), reason) == (engine.text(ids[: at + 1]), None)


def test_trace_and_usage_tell_what_was_weighed(model):
    aligned = GroundedDecoding(scorers=[CAN, Prefer(words=["grey"])], terminal=["."]).align(model)
    found = aligned.generate(PROMPTS[0], max_new_tokens=30)
    one, steps = found[0], found[0].trace["steps"]
    assert len(steps) == len(one.tokens)
    assert "".join(step["token"] for step in steps) == one.text
    assert all(len(step["grounding"]) == 2 for step in steps)
    for step in steps:
        assert step["score"] == pytest.approx(step["logprob"] + sum(step["grounding"]))
    assert one.trace["score"] == pytest.approx(sum(step["score"] for step in steps))
    policy = model.text_logprobs  # the same numbers as the model's own log-probabilities of these tokens
    assert policy is not None
    plain = Engine(model).prefill([model.encode_prompt(PROMPTS[0])])
    for token, step in zip(one.tokens, steps):
        assert step["logprob"] == pytest.approx(float(plain.logits[0].log_softmax(0)[token]), abs=1e-4)
        plain.append([token])
    assert one.logprobs is None
    assert found.usage.calls["grounding"] > 0


def test_stacking_with_other_kinds(model):
    spoken = SystemMessage(text="look").align(model)
    first = GroundedDecoding(scorers=[CAN], terminal=["."]).align(spoken)
    assert first.generate("what?", max_new_tokens=30)[0].text.strip() in SKILLS
    with pytest.raises(StackError, match=r"BestOfN.*GroundedDecodingModifier"):
        BestOfN(reward=like_the_cat).align(first)
    assert first.unstack().generate("what?", **HOW).texts == spoken.generate("what?", **HOW).texts
    weak, strong = first.with_strength(0), first.with_strength(3.0)
    assert weak.generate("what?", **HOW).texts == spoken.generate("what?", **HOW).texts
    assert strong.modifiers[-1].strength == 3.0


def test_prompt_modifiers_end_an_answer_and_clean_it(model):
    asked = model.with_modifier(Ends(end=model.generate(PROMPTS[0], **HOW)[0].text[5:8]))
    alone = GroundedDecoding(scorers=[CAN], strength=0)
    assert alone.align(asked).generate(PROMPTS, **HOW).texts == asked.generate(PROMPTS, **HOW).texts
    assert asked.generate(PROMPTS, **HOW).texts != [text.strip() for text in model.generate(PROMPTS, **HOW).texts]
    skilled = SayCan(skills=list(SKILLS)).align(asked).generate(PROMPTS, max_new_tokens=30)
    assert all(answer.text in SKILLS for answer in skilled)


@pytest.mark.parametrize("how", [{"beam": 3}, {"n": 3, "temperature": 1.0}, {"skills": 1}])
def test_rows_run_together_within_the_budget_of_the_engine(model, monkeypatch, how):
    how, prompts = (
        dict(how),
        ["the cat", "look at the small red bird and the mat, what is on the mat?", "a", "it", "the stone"],
    )
    beam = how.pop("beam", 1)
    method = SayCan(skills=list(SKILLS)) if how.pop("skills", 0) else GroundedDecoding(scorers=[CAN], beam=beam)
    branches, aligned = beam * how.get("n", 1), method.align(model)
    wanted = aligned.generate(prompts, max_new_tokens=20, **how)
    room = 20 + max(len(model.encode_prompt(prompt)) for prompt in prompts)
    monkeypatch.setattr("truing.models.engine.TOKENS", 2 * branches * room)
    read, prefill = [], Engine.prefill

    def spy(engine, sequences, *more):
        read.append([len(sequence) + 20 for sequence in sequences])
        return prefill(engine, sequences, *more)

    monkeypatch.setattr(Engine, "prefill", spy)
    assert aligned.generate(prompts, max_new_tokens=20, **how).texts == wanted.texts
    assert all(len(lengths) * max(lengths) * branches <= 2 * branches * room for lengths in read)
    assert len(read) > 1


def test_nothing_above_the_floor_names_scorers_and_text(model):
    both = [Affordance(skills=["the cat."]), Avoid(words=["cat"])]
    for beam in (1, 2):
        with pytest.raises(RewardError, match=r"(?s)After '.*the.*' every token.*Avoid.*1e-06.*strict=False"):
            GroundedDecoding(scorers=both, beam=beam).align(model).generate(PROMPTS, max_new_tokens=30)
    soft = GroundedDecoding(scorers=both, strict=False).align(model).generate(PROMPTS, max_new_tokens=30)
    assert len(soft) == 3


def test_a_scorer_that_fails_is_named_with_the_text(model):
    def nan(prompts, responses):
        return [float("nan") if len(text) > 3 else 1.0 for text in responses]

    def short(prompts, responses):
        return [1.0] * (len(responses) + 1)

    def broken(prompts, responses):
        raise KeyError("no such thing")

    def high(prompts, responses):
        return [7.0] * len(responses)

    for scorer, message in (
        (nan, r"nan gave nan .*The text was '....+'"), (short, r"short gave an array of shape \[2\].*The text was '"),
        (broken, r"broken raised KeyError.*The text was '"),
        (high, r"high gave 7\.0 for '.*from 0 to 1.*tempered"),
    ):  # fmt: skip
        with pytest.raises(RewardError, match=f"(?s){message}"):
            GroundedDecoding(scorers=[scorer]).align(model).generate(PROMPTS, max_new_tokens=20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorers": []}, "at least one grounding function"), ({"scorers": "avoid"}, "at least one"),
        ({"scorers": ["avoyd"]}, "Did you mean `avoid`"), ({"scorers": [{"avoid": {"words": []}}]}, "words is a list"),
        ({"scorers": [Affordance(skills=[])]}, "at least one text"),
        ({"scorers": [{"affordance": {"skills": ["go.", "go."]}}]}, "'go.' is named twice"),
        ({"beam": 0}, "beam is a whole number over 0"), ({"beam": 1.5}, "beam"),
        ({"terminal": "."}, "terminal is a list"), ({"terminal": [""]}, "not empty"),
        ({"accumulate": "last"}, "every_prefix and final_only"), ({"strength": -1}, "at least 0"),
        ({"floor": 0.0}, "floor is a small number over 0"), ({"brackets": ["["]}, "two different"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_found_when_aligning(model, settings, message):
    with pytest.raises(SettingsError, match=message):
        GroundedDecoding(**{"scorers": [CAN], **settings}).align(model)


def test_calls_that_cannot_work(model):
    beam = GroundedDecoding(scorers=[CAN], beam=2).align(model)
    with pytest.raises(SettingsError, match=r"temperature.*beam=1"):
        beam.generate(PROMPTS, temperature=1.0)
    with pytest.raises(SettingsError, match="no 3 best"):
        beam.generate(PROMPTS, n=3)
    same = GroundedDecoding(scorers=[CAN]).align(model).generate(PROMPTS[0], max_new_tokens=30, n=2)
    assert len(same) == 2
    assert same[0].tokens == same[1].tokens
    from truing import RemoteModel

    with pytest.raises(UnsupportedError, match="logits"):
        GroundedDecoding(scorers=[CAN]).align(RemoteModel("m", base_url="http://127.0.0.1:9/v1", api_key="none"))


def test_scorers_by_name_survive_saving(model, tmp_path):
    scorers = [
        {"affordance": {"skills": SKILLS}}, {"tempered": {"reward": {"keyword": {"words": ["grey"]}}, "tau": 0.2}},
        {"avoid": {"words": ["sat"], "epsilon": 0.01}},
    ]  # fmt: skip
    aligned = GroundedDecoding(scorers=scorers, terminal=["."]).align(model)
    aligned.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.modifiers == aligned.modifiers
    found, other = (each.generate(PROMPTS, max_new_tokens=30) for each in (aligned, again))
    assert [each.trace for each in found] == [each.trace for each in other]
