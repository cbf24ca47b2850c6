"""Models of truing for lm-evaluation-harness: contexts that options share are read once, and modifiers act."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from truing.contracts import require_offers
from truing.errors import ModelError, RecordError, SettingsError, UnsupportedError
from truing.frameworks import load_asked
from truing.models import chat
from truing.models.engine import Engine, generate
from truing.models.local import parameter_count
from truing.models.logprobs import batches
from truing.models.modifiers import SearchModifier
from truing.models.sampling import check_sampling
from truing.models.tree import branch_scores
from truing.models.types import Row, Sampling

log = logging.getLogger("truing.frameworks")

DEFAULT_DEVICE = "cuda:0"  # what the harness says unless told
TOKENS = {"cpu": 4096}
MOST_TOKENS = 16384
TOGETHER = 1024  # tokens of continuations behind one context in one pass, since their mask grows with the square
NEUTRAL = (None, False, 0, 1, 1.0)
"""Values of generation settings that say nothing, such as a repetition penalty of 1."""


@dataclasses.dataclass(frozen=True)
class _Context:
    """What a context's text stands for: the conversation, after prompt modifiers, and its tokens."""

    messages: list[dict[str, Any]]
    tokens: tuple[int, ...]


@register_model("truing")
class TruingLM(TemplateLM):
    """A model of truing, under the harness' name ``truing``.

    Args:
        model: a model, or what `truing.load` takes, or the folder of a run, with ``@MODIFIER=STRENGTH`` or
            ``@MODIFIER=off``.
        dtype: as `truing.load` takes it.
        device: as `truing.load` takes it.
        trust_remote_code: run code that comes with the model.
        batch_size: most contexts at a time; with 1, which the harness gives unless told, or "auto" by a budget of
            tokens.
        max_batch_size: not used.
        seed: of sampled answers.
        max_gen_toks: most tokens of an answer where a task says nothing.

    Raises:
        UnsupportedError: the model is a remote one, or writes nothing.
    """

    def __init__(
        self, model: Any, *, dtype: str | None = None, device: str | None = None, trust_remote_code: bool = False,
        batch_size: int | str | None = None, max_batch_size: int | None = None, seed: int = 0, max_gen_toks: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        if device == DEFAULT_DEVICE and not torch.cuda.is_available():
            device = None
        self.model = (
            load_asked(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
            if isinstance(model, str)
            else model
        )
        require_offers(self.model, frozenset({"logits", "local_weights"}), "lm-evaluation-harness")
        self.tokenizer = self.model.tokenizer
        self.seed, self.max_gen_toks = seed, max_gen_toks
        told = int(batch_size) if batch_size is not None and str(batch_size).isdigit() else 1
        self._batch = told if told > 1 else None
        self._device = self.model.device
        self._contexts: dict[str, _Context] = {}
        self._short = 0
        self._searching = [modifier for modifier in self.model.modifiers if isinstance(modifier, SearchModifier)]
        self._engine = Engine(self.model)  # also for what it knows of limits; refuses models that cannot branch

    # --- what the harness asks of it ---------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"The tokenizer of {self.model.name} has no end token. Set `tokenizer.eos_token`.")
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it: the start token, or the end token where there is none."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def max_length(self) -> int:
        """Tokens that it reads at most."""
        return self._engine.limit or 2**31

    @property
    def tokenizer_name(self) -> str:
        """For the harness' cache of requests."""
        return self.model.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness notes in its results: which weights and modifiers these are."""
        return {
            "model_num_parameters": parameter_count(self.model),
            "model_dtype": str(next(self.model.weights.parameters()).dtype).removeprefix("torch."),
            "model_fingerprint": self.model.fingerprint,
            "model_history": [step.method for step in self.model.history],
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of raw text: special tokens act, and a start token stands first where that is usual."""
        if add_special_tokens is False:
            return list(self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]) if string else []
        return chat.encode_raw(self.tokenizer, string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model sees it, after its prompt modifiers; remembered, to be encoded as such."""
        messages = self.model.conversation(chat_history)
        tokens = self.model.encode_messages(messages)
        text = str(self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        self._contexts[text] = _Context(messages, tuple(tokens))
        return text

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts in nats, each token given as much before it as the model reads."""
        self._refuse_search()
        windows, owners = [], []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1):
                windows.append(make_disjoint_window(window))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, values in zip(owners, self.model._score(windows, self._batch)):
            totals[owner] += float(values.sum(dtype="float64"))
        for request, total in zip(requests, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to one of its stop strings; see `Model.generate`.

        Raises:
            UnsupportedError: a setting of generation that the model does not have.
            RecordError: the context and answer do not fit the model.
        """
        groups: dict[Sampling, list[int]] = {}
        for at, request in enumerate(requests):
            groups.setdefault(self._sampling(request.args[1]), []).append(at)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), desc="truing: answers", disable=disable_tqdm) as bar:
            for sampling, members in groups.items():
                # One row for equal contexts, which a task with `repeats` gives: its samples have noise of their own.
                alike: dict[str, list[int]] = {}
                for at in members:
                    alike.setdefault(requests[at].args[0], []).append(at)
                counts: dict[int, list[str]] = {}
                for text, places in alike.items():
                    counts.setdefault(1 if sampling.temperature == 0 else len(places), []).append(text)
                for count, texts in counts.items():
                    rows = [self._row(text, sampling, index) for index, text in enumerate(texts)]
                    found = generate(
                        self.model, rows, dataclasses.replace(sampling, n=count), batch_size=self._batch
                    ).grouped()
                    for text, several in zip(texts, found):
                        for sample, at in enumerate(alike[text]):
                            answers[at] = several[sample % count].text
                            self.cache_hook.add_partial("generate_until", requests[at].args, answers[at])
                            bar.update(1)
        self._tell_cuts(len(requests))
        return answers

    # --- likelihoods -------------------------------------------------------------------------------------------------

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        known = self._contexts.get(context)
        if known is None:
            self._refuse_raw()
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        # As `Model.logprobs` has it: the plain form of a model without a template ends without a space.
        open_end = self.tokenizer.chat_template or self.model.rendered(known.messages) is not None
        gap = "" if open_end or continuation[:1].isspace() else " "
        return list(known.tokens), chat.encode_plain(self.tokenizer, gap + continuation)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        self._refuse_search()
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        shared: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        for at, (_, context, continuation) in enumerate(requests):
            if continuation:
                room = self.max_length + 1 - len(continuation)
                shared.setdefault(self._cut(context, room), {}).setdefault(tuple(continuation), []).append(at)
        parts = [
            (context, some)
            for context, continuations in shared.items()
            for some in _portions(list(continuations), TOGETHER)
        ]
        self._tell_cuts(len(shared))
        engine = Engine(self.model)
        engine.expect(list(shared))
        budget = TOKENS.get(self._device.type, MOST_TOKENS)
        sizes = [len(context) + sum(map(len, some)) for context, some in parts]
        with tqdm(total=len(requests), desc="truing: log-likelihoods", disable=disable_tqdm) as bar:
            for members in batches(sizes, budget, self._batch):
                scored = branch_scores(
                    engine.prefill([parts[at][0] for at in members]), [parts[at][1] for at in members]
                )
                for number, (values, greedy) in zip(members, scored):
                    before, some = parts[number]
                    for part, value, likeliest in zip(some, values.tolist(), greedy):
                        for at in shared[before][part]:
                            found[at] = (value, likeliest)
                            self.cache_hook.add_partial("loglikelihood", requests[at][0], found[at])
                            bar.update(1)
        return found

    def _cut(self, context: Sequence[int], room: int) -> tuple[int, ...]:
        """The end of a context that is too long, as the harness has it for every model."""
        if room < 1:
            raise RecordError(
                f"A continuation or an answer leaves no room for its context: {self.model.name} reads "
                f"{self.max_length} tokens at most. Shorten it, or ask for fewer tokens: `--gen_kwargs max_gen_toks=…`."
            )
        self._short += len(context) > room
        return tuple(context[-room:])

    def _tell_cuts(self, of: int) -> None:
        if self._short:
            log.warning("%d of %d contexts were too long, and lost their beginnings.", self._short, of)
        self._short = 0

    # --- answers -----------------------------------------------------------------------------------------------------

    def _row(self, text: str, sampling: Sampling, index: int) -> Row:
        known = self._contexts.get(text)
        if known is None:
            self._refuse_raw()
            known = _Context([{"role": "user", "content": text}], tuple(self.tok_encode(text)))
        if not known.tokens:
            known = dataclasses.replace(known, tokens=(self.prefix_token_id,))
        return Row(known.messages, self._cut(known.tokens, self.max_length - sampling.max_new_tokens), index)

    def _sampling(self, asked: Any) -> Sampling:
        wanted = dict(normalize_gen_kwargs(asked, self.max_gen_toks))
        stop = wanted.pop("until", [])
        warm = bool(wanted.pop("do_sample", False))
        try:
            sampling = Sampling(
                max_new_tokens=int(wanted.pop("max_gen_toks")),
                temperature=float(wanted.pop("temperature", 0.0)) if warm else 0.0,
                top_k=int(wanted.pop("top_k", 0) or 0),
                top_p=float(wanted.pop("top_p", 1.0)),
                stop=tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text),
                seed=int(wanted.pop("seed", self.seed)),
            )
        except (TypeError, ValueError) as error:
            raise SettingsError(f"Settings of generation that cannot be read: {json.dumps(asked)[:200]}") from error
        for name, value in wanted.items():
            if value not in NEUTRAL:
                raise UnsupportedError(
                    f"truing's models have no `{name}` ({value!r}), which would change answers. Take it out of the "
                    "task or of --gen_kwargs."
                )
        check_sampling(sampling)
        return sampling

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _refuse_search(self) -> None:
        if self._searching:
            raise UnsupportedError(
                f"{self._searching[0].label} searches among answers, which defines no likelihood. Choose tasks that "
                "generate, or turn it off: --model MODEL@MODIFIER=off."
            )

    def _refuse_raw(self) -> None:
        acting = [modifier for modifier in self.model.modifiers if modifier.kind == "prompt"]
        if acting:
            raise UnsupportedError(
                f"{acting[0].label} changes conversations, which raw text is not. Add --apply_chat_template, without "
                "--cache_requests, or turn it off: --model MODEL@MODIFIER=off."
            )


def _portions(sequences: Sequence[tuple[int, ...]], most: int) -> list[list[tuple[int, ...]]]:
    """Sequences in their order, in portions of at most so many tokens, or of one."""
    out: list[list[tuple[int, ...]]] = []
    size = most
    for sequence in sequences:
        if size + len(sequence) > most:
            out.append([])
            size = 0
        out[-1].append(sequence)
        size += len(sequence)
    return out
