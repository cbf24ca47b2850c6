"""How much behaviour a strength buys, for how much ability, and which strength is best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from truing.contracts import Measure, Reward, is_number, require, require_seed, require_whole
from truing.errors import RecordError, SettingsError, UnsupportedError
from truing.measures import tradeoff_curves as forms
from truing.measures.asking import Context, ask, check_limit, check_split, own_prompts
from truing.measures.result import Outcome, Result
from truing.measures.sweeping import Choice, option_logprobs
from truing.measures.tradeoff_figures import FORMS, Findings, Swept
from truing.models.types import Sampling

if TYPE_CHECKING:
    from truing.models import AnyModel
    from truing.records import Records

READS = ("first", "whole", "answers")
STEPS = tuple(at / 2 for at in range(-8, 9))
Array = np.ndarray


class TradeoffResult(Result):
    """A result that names the best strength for any loss that may be borne."""

    def best(self, loss: float = 0.02) -> float:
        """The strength of the best behaviour that costs at most a share ``loss`` of the ability at strength 0."""
        require(is_number(loss) and 0 <= loss < 1, f"loss is a share below 1, not {loss!r}.")
        by_name = {curve.name: curve for curve in self.curves}
        strengths = [x for x, _ in by_name["behaviour"].points]
        columns = [[figure.value for _, figure in by_name[name].points] for name in ("behaviour", "ability")]
        return float(forms.best_strength(strengths, np.array(columns[0]), np.array(columns[1]), loss))


class SteeringTradeoff(Measure):
    """Behaviour and ability at many strengths of one of a model's modifiers, the same questions at every strength.

    Behaviour is from -1 to 1: P(wanted) - P(unwanted) among the two answers of a contrast record, or graded answers.
    Ability is the probability of the right answer to questions, or the share answered right. Behaviour is fitted by
    tanh(a r + b0), ability by 1 / (1 + a + a b^2 r^2 / 2). Any modifier with a dial can be swept. For an edit of
    activations what lies below it is computed once for all strengths, and nothing is generated.

    The best strength is that of the best behaviour, among those that can be reached from 0 without losing more than
    ``loss`` of the ability on the way. Intervals are percentiles of a bootstrap over records and over questions, each
    resample with all its strengths; they say nothing of another vector, or of other ways to ask.

    Args:
        strengths: at least 3; None for -4 to 4 times what the model carries, by halves (of 1 where it carries 0). Those
            that the modifier refuses are left out, with a note.
        modifier: whose strength is swept, by name (``steering``, ``nudging``); None for the last one that has any.
        behaviour: contrast records; None for courteous and rude answers of the sandbox.
        ability: question records; None for facts of the sandbox. An optional column ``choices`` holds what the right
            answer is chosen from; ``answers`` are right wordings, of which the most probable counts. With four choices
            everywhere the probability among them is fitted too, by 1/4 + 1/2 / (1 + a + a b^2 r^2 / 2).
        read: "first" compares the first tokens in which the two answers of a record differ, "whole" the answers with
            their end; "answers" has the model answer, and grades it, as a search modifier needs.
        reward: grades answers, with ``read="answers"``; one that declares bounds is stretched to -1 to 1. None for the
            sandbox's style: 1 for courteous, -1 for rude.
        lead: what is put before the answer to a question of your own, such as "The answer is"; a column ``lead`` says
            it for one question.
        loss: the share of the ability that may be lost.
        within: fit strengths up to this only; None for all.
        limit: at most that many records, and as many questions; None for 200.
        split: of the sandbox: "dev" to choose a strength, "test" to report.
        max_new_tokens: most tokens of an answer, with ``read="answers"``.
        seed: of the sandbox's questions and of the bootstrap.

    Source: Wolf et al. 2024, arXiv 2401.16332.
    """

    strengths: Sequence[float] | None = None
    modifier: str | None = None
    behaviour: Records | Sequence[dict[str, Any]] | str | Path | None = None
    ability: Records | Sequence[dict[str, Any]] | str | Path | None = None
    read: str = "first"
    reward: Reward | None = None
    lead: str = ""
    loss: float = 0.02
    within: float | None = None
    limit: int | None = None
    split: str = "test"
    max_new_tokens: int = 48
    seed: int = 0
    paper = 50
    gives: ClassVar[tuple[str, ...]] = (
        "best_strength", "behaviour_at_best", "behaviour_gained", "ability_at_best", "ability_lost", "behaviour_slope",
        "ability_linear_loss", "ability_quadratic_loss", "loss_exponent",
        *(f"{what}_fit_{name}" for what, form in FORMS.items() for name in ("a", form.second)),
    )  # fmt: skip

    def validate(self) -> None:
        """Raise `SettingsError` for a value that cannot work."""
        super().validate()
        check_limit(self.limit)
        check_split(self.split)
        require_seed(self.seed)
        require_whole(self, ["max_new_tokens"])
        if self.strengths is not None:
            listed = isinstance(self.strengths, (list, tuple)) and all(map(is_number, self.strengths))
            require(
                listed and len(set(self.strengths)) > 2, f"strengths are 3 numbers or more, not {self.strengths!r}."
            )
        require(self.read in READS, f"read is one of {', '.join(READS)}, not {self.read!r}.")
        require(is_number(self.loss) and 0 < self.loss < 1, f"loss is a share between 0 and 1, not {self.loss!r}.")
        require(self.within is None or (is_number(self.within) and self.within > 0), "within is a strength over 0.")
        require(self.reward is None or self.read == "answers", 'A reward grades answers: set read="answers" with it.')

    def measure(
        self, model: AnyModel | None = None, against: AnyModel | None = None, *, out: str | Path | None = None
    ) -> TradeoffResult:
        """As `Measure.measure`; ``against`` is not swept, since the comparison is with strength 0."""
        found = super().measure(model, against, out=out)
        return TradeoffResult(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})

    def _measure(self, model: AnyModel, context: Context) -> Outcome:
        which = model.find_modifier(self.modifier)
        strengths, notes = self._strengths(model, which)
        if self.read == "answers":
            swept, rows, more = self._answered(model, which, strengths, context)
        else:
            swept, rows = self._probable(model, which, strengths, context)
            more = []
        found = Findings(swept, self.loss, self.within, self.seed)
        figures, curves = found.figures(), found.curves()
        return Outcome(rows, {}, [*notes, *more, *found.notes], figures=figures, curves=curves)

    def _strengths(self, model: AnyModel, which: int) -> tuple[list[float], list[str]]:
        modifier = model.modifiers[which]
        now = float(getattr(modifier, modifier.dial or ""))
        asked = [step * (abs(now) or 1.0) for step in STEPS] if self.strengths is None else list(self.strengths)
        kept, refused = [], []
        for strength in sorted({0.0, *map(float, asked)}):
            try:
                model.with_strength(strength, which)
                kept.append(strength)
            except SettingsError as error:
                if self.strengths is not None and strength in self.strengths:
                    raise
                refused.append((strength, str(error)))
        if len(kept) < 3:
            raise SettingsError(f"{modifier.label} takes only {kept} of the strengths {asked}: {refused[0][1]}")
        note = f"{len(refused)} strengths were left out, {refused[0][0]:g} first: {refused[0][1]}" if refused else ""
        return kept, [note] if note else []

    # --- by probabilities -------------------------------------------------------------------------------------------

    def _probable(
        self, model: Any, which: int, strengths: list[float], context: Context
    ) -> tuple[Swept, list[dict[str, Any]]]:
        for modifier in model.modifiers:
            if modifier.kind == "search":
                raise UnsupportedError(
                    f"{type(modifier).__name__} searches, which defines no probability of an answer. Set "
                    '`read="answers"`, which grades what the model writes.'
                )
        if "logits" not in model.offers:
            raise UnsupportedError(
                f'{model.name} gives no probabilities of answers. Set `read="answers"`, or load local weights.'
            )
        contrasts = self._contrasts(model)
        questions = self._questions(model)
        choices = [choice for choice, _ in contrasts] + [choice for choice, _, _ in questions]

        def work(some: list[int]) -> list[Any]:
            found = option_logprobs(model, which, strengths, [choices[at] for at in some], context.usage)
            return [values.tolist() for values in found]

        keys = [{"sweep": which, "strengths": strengths, **dataclasses.asdict(choice)} for choice in choices]
        logs = [np.array(one) for one in context.compute(context.origin(model), keys, work, model.name)]
        first = [np.tanh((one[:, 0] - one[:, 1]) / 2) for one in logs[: len(contrasts)]]
        right, relative, rows = [], [], []
        for (_, row), values in zip(contrasts, first):
            rows.append({"id": row["id"], "kind": "behaviour", "prompt": row["prompt"], "behaviour": values.tolist()})
        for (_, groups, row), one in zip(questions, logs[len(contrasts) :]):
            best = np.stack([np.exp(one[:, group].max(1)) for group in groups], 1)
            right.append(best[:, 0])
            relative.append(best[:, 0] / best.sum(1) if len(groups) > 1 else None)
            rows.append({"id": row["id"], "kind": "ability", "prompt": row["prompt"], "ability": right[-1].tolist()})
        shares = None if any(one is None for one in relative) else np.array(relative)
        four = all(len(groups) == 4 for _, groups, _ in questions)
        return Swept(np.array(strengths), np.array(first), np.array(right), shares, four), rows

    def _contrasts(self, model: Any) -> list[tuple[Choice, dict[str, Any]]]:
        source = f"sandbox/contrasts:{self.split}" if self.behaviour is None else self.behaviour
        found = []
        for row in own_prompts(source, self.limit or 200, "SteeringTradeoff (behaviour)", ("contrast",)):
            prompt, good = model.encode_pair(row["prompt"], row["positive"])
            bad = model.encode_pair(row["prompt"], row["negative"])[1]
            if good == bad:
                raise RecordError(f"The two answers of {row['id']} are equal, so they tell no behaviour.")
            shared = next(at for at, (a, b) in enumerate(zip(good, bad)) if a != b)
            if self.read == "first":
                options = ((good[shared],), (bad[shared],))
                found.append((Choice((*prompt, *good[:shared]), len(prompt), options), row))
            else:
                found.append((Choice(tuple(prompt), len(prompt), (tuple(good), tuple(bad))), row))
        return _enough(found, "behaviour")

    def _questions(self, model: Any) -> list[tuple[Choice, list[list[int]], dict[str, Any]]]:
        """Each with the options that stand for each answer, the right answer first."""
        found = []
        for row in self._asked():
            lead = str(row.get("lead", self.lead))
            right = [str(answer) for answer in row["answers"]]
            wrong = [[str(choice)] for choice in row.get("choices") or [] if str(choice) not in right]
            prompt = model.encode_prompt(row["prompt"])
            before = (*prompt, *_encode(model, lead)) if lead else tuple(prompt)
            options: list[tuple[int, ...]] = []
            groups = []
            for texts in (right, *wrong):
                written = dict.fromkeys(form for text in texts for form in _spellings(model, text))
                groups.append(list(range(len(options), len(options) + len(written))))
                options += written
            if not all(options):
                raise RecordError(f"An answer of {row['id']} is empty.")
            found.append((Choice(before, len(prompt), tuple(options)), groups, row))
        return _enough(found, "ability")

    def _asked(self) -> list[dict[str, Any]]:
        if self.ability is None:
            return _facts(self.split, self.limit or 200, self.seed)
        rows = own_prompts(self.ability, None, "SteeringTradeoff (ability)", ("question",))
        if any("item" in row for row in rows):
            # Of the sandbox's kinds facts alone have an answer of one word.
            rows = [_sandbox_fact(row, row["item"]) for row in rows if row.get("item", {}).get("kind") == "fact"]
        return rows[: self.limit or 200]

    # --- by answers -------------------------------------------------------------------------------------------------

    def _answered(
        self, model: Any, which: int, strengths: list[float], context: Context
    ) -> tuple[Swept, list[dict[str, Any]], list[str]]:
        from truing.measures.side_effects import _holds

        source = f"sandbox/contrasts:{self.split}" if self.behaviour is None else self.behaviour
        asked = own_prompts(source, self.limit or 200, "SteeringTradeoff (behaviour)")
        questions = self._asked()
        _enough(asked, "behaviour")
        _enough(questions, "ability")
        prompts = [row["prompt"] for row in (*asked, *questions)]
        sampling = Sampling(self.max_new_tokens, seed=self.seed)
        behaviour, ability, cut = [], [], 0
        for strength in strengths:
            answers = ask(model.with_strength(strength, which), prompts, sampling, context)
            cut += sum(answer.cut for answer in answers)
            texts = [answer.text for answer in answers]
            behaviour.append(self._graded(prompts[: len(asked)], texts[: len(asked)]))
            told = zip(questions, texts[len(asked) :])
            ability.append([float(any(_holds(text, right) for right in row["answers"])) for row, text in told])
        good, able = np.array(behaviour).T, np.array(ability).T
        rows = [
            {"id": row["id"], "kind": kind, "prompt": row["prompt"], kind: values.tolist()}
            for kind, some, found in (("behaviour", asked, good), ("ability", questions, able))
            for row, values in zip(some, found)
        ]
        limit = f"{cut} answers reached the limit of {self.max_new_tokens} tokens (`max_new_tokens`)."
        return Swept(np.array(strengths), good, able), rows, [limit] if cut else []

    def _graded(self, prompts: Sequence[Any], texts: Sequence[str]) -> Array:
        if self.reward is None:
            from truing.sandbox.graders import style

            return np.array([{"polite": 1.0, "rude": -1.0}.get(style(text), 0.0) for text in texts])
        from truing.rewards import checked, name_of
        from truing.rewards.partial import bounds

        found, (low, high) = checked(self.reward, prompts, texts), bounds(self.reward)
        if np.isfinite(low) and np.isfinite(high):
            return 2 * (found - low) / (high - low) - 1
        if float(np.abs(found).max()) > 1:
            raise SettingsError(
                f"Behaviour is from -1 to 1, and the reward {name_of(self.reward)} gave "
                f"{found[np.abs(found).argmax()]}. Scale it, or let it declare its `bounds`."
            )
        return found


def _facts(split: str, limit: int, seed: int) -> list[dict[str, Any]]:
    from truing.sandbox import items

    return [
        _sandbox_fact({"id": f"fact-{at}", "prompt": item.prompt}, item.to_dict())
        for at, item in enumerate(items("fact", split, limit, seed))
    ]


def _sandbox_fact(row: dict[str, Any], item: dict[str, str]) -> dict[str, Any]:
    """A question whose answer is one name: what comes before it is given, and the attribute's values are choices."""
    from truing.sandbox.graders import _options

    lead = f"The {item['attribute']} of {item['subject']} is"
    return {**row, "answers": [item["truth"]], "choices": list(_options(item["attribute"])), "lead": lead}


def _encode(model: Any, text: str) -> list[int]:
    from truing.models.chat import encode_plain

    return list(encode_plain(model.tokenizer, text))


def _spellings(model: Any, text: str) -> list[tuple[int, ...]]:
    """Token ids with a blank before a text and without, the shorter of the two: a word has both forms as one token, or
    the one form in which texts hold it.
    """
    forms_of = [tuple(_encode(model, form)) for form in (" " + text, text)]
    return [form for form in forms_of if len(form) == min(map(len, forms_of))]


def _enough(found: list[Any], what: str) -> list[Any]:
    if len(found) < 2:
        raise RecordError(
            f"SteeringTradeoff needs 2 records at least to tell {what} with an interval, got {len(found)}."
        )
    return found
