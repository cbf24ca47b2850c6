"""A model that judges whether a context supports a claim: any encoder or decoder under three heads.

It is a sequence-classification model of transformers with six values, the order of which
`truing.rewards.alignment_rule.HEADS` says, so that transformers reads and writes it. Source: Zha et al. 2023, arXiv
2305.16739.
"""

from __future__ import annotations

import copy
import itertools
import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from truing.contracts import Prompt
from truing.errors import ModelError
from truing.models.scored import ScoreModel

MARK = "alignment_heads"
"""In a config: the model's six values are the three heads."""
MATCHES = "alignment_matches"
"""In a config: token types also say whether a token, or a pair of tokens, stands on the other side too."""
LABELS = ("not aligned (binary)", "aligned (binary)", "aligned", "neutral", "contradicted", "regression")
MAX_LENGTH = 512
STEM = 5
ENCODERS = (
    "bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "electra", "roberta-prelayernorm", "data2vec-text",
    "rembert", "ernie", "megatron-bert", "roformer",
)  # fmt: skip
"""Kinds of encoder that transformers also loads as models that write."""
Pairs = Sequence[tuple[str, str]]


class AlignmentModel(ScoreModel):
    """A `ScoreModel` of pairs. Called, it gives the AlignScore of each response against the text of its prompt.

    An encoder reads "context, claim" as its tokenizer writes pairs; a decoder reads the context as the user's message
    and the claim as the answer to it. What is too long loses the end of its context.
    """

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """The score of each response by the three-way head, chunk by chunk, from 0 to 1; 0 without a sentence.

        Raises:
            RewardError: there is not one response for each prompt.
        """
        from truing.rewards.align_score import AlignScore

        scorer: Any = self
        return AlignScore(scorer=scorer)(prompts, responses)

    def logits(
        self, prompts: Sequence[Prompt], responses: Sequence[str], *, batch_size: int | None = None
    ) -> np.ndarray:
        """The six values of each prompt's text and response, float64 [n, 6]."""
        from truing.models.chat import as_messages

        texts = ["\n\n".join(message["content"] for message in as_messages(prompt)) for prompt in prompts]
        return self.pair_logits(list(zip(texts, responses, strict=True)), batch_size=batch_size)

    def pair_logits(self, pairs: Pairs, *, max_length: int = MAX_LENGTH, batch_size: int | None = None) -> np.ndarray:
        """The six values of pairs of context and claim, float64 [n, 6].

        Equal pairs are computed once, pairs of similar length together and padded to the longest of them; a batch gives
        what single pairs give.

        Args:
            pairs: contexts and claims; either may be empty.
            max_length: most tokens of a pair.
            batch_size: pairs at a time; by default a budget of 8192 tokens.
        """
        from truing.rewards.model import logits

        if not pairs:
            return np.zeros((0, len(LABELS)))
        places: dict[tuple[str, str], int] = {}
        where = [places.setdefault(tuple(pair), len(places)) for pair in pairs]  # type: ignore[arg-type]
        rows, types = PairEncoder(self.weights, self.tokenizer, max_length)(list(places))
        return logits(self.weights, rows, batch_size, types=types)[where]


class PairEncoder:
    """Token ids of pairs. Each text is tokenised once, however many pairs it is in.

    Args:
        weights: a sequence-classification model of transformers.
        tokenizer: its tokenizer.
        max_length: most tokens of a pair; the model's own limit holds too.
    """

    def __init__(self, weights: Any, tokenizer: Any, max_length: int = MAX_LENGTH) -> None:
        self.tokenizer = tokenizer
        self.limit = min(max_length, positions(weights) or max_length)
        self.groups = kin(tokenizer) if getattr(weights.config, MATCHES, False) else None
        # transformers' heads on decoders are called `score`, those on encoders `classifier`.
        self.shape = _decoder_shape(tokenizer) if hasattr(weights, "score") else _encoder_shape(tokenizer)
        self.typed = int(getattr(weights.config, "type_vocab_size", 0) or 0) > 1 and not hasattr(weights, "score")

    def __call__(self, pairs: Pairs) -> tuple[list[list[int]], list[list[int]] | None]:
        """Ids of each pair, and its token types where the model has some."""
        texts = {text: self._ids(text) for text in {text for pair in pairs for text in pair}}
        rows, types = [], []
        before, between, after = self.shape
        room = self.limit - len(before) - len(between) - len(after)
        for context, claim in pairs:
            one, two = cut(texts[context], texts[claim], room)
            rows.append([*before, *one, *between, *two, *after])
            if self.typed:
                marks, second = ([0] * len(one), [0] * len(two)), 1
                if self.groups is not None:
                    sides = ([self.groups[token] for token in side] for side in (one, two))
                    marks, second = matches(*sides), 3
                types.append(
                    [*[0] * len(before), *marks[0], *[0] * len(between), *(second + mark for mark in marks[1]),
                     *[second] * len(after)]
                )  # fmt: skip
        return rows, types if self.typed else None

    def _ids(self, text: str) -> list[int]:
        from truing.models.chat import encode_plain

        return encode_plain(self.tokenizer, text)


def cut(context: list[int], claim: list[int], room: int) -> tuple[list[int], list[int]]:
    """Two sequences that fit into so many tokens: the context loses its end; where that is not enough, the longer one
    of both, token by token."""
    over = len(context) + len(claim) - room
    if over <= 0:
        return context, claim
    if over < len(context):
        return context[: len(context) - over], claim
    shorter = min(len(context), len(claim), room // 2)
    keep = (shorter, room - shorter) if len(context) <= len(claim) else (room - shorter, shorter)
    return context[: keep[0]], claim[: keep[1]]


def kin(tokenizer: Any) -> list[int]:
    """For each token the first one of its kin: words with the same first `STEM` letters, so that the forms of a word
    count as the same."""
    first: dict[str, int] = {}
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [first.setdefault(name[:STEM] if name.isalpha() else name, at) for at, name in enumerate(names)]


def matches(one: Sequence[int], two: Sequence[int]) -> tuple[list[int], list[int]]:
    """For each token of both sides: 2 where it and the one before it stand together on the other side too, 1 where it
    stands there, else 0.

    A small encoder trained from scratch does not find out in minutes that equal tokens are equal; so it is told.
    """

    def marks(here: Sequence[int], there: Sequence[int]) -> list[int]:
        single, double = set(there), set(itertools.pairwise(there))
        return [2 if at and (here[at - 1], token) in double else int(token in single) for at, token in enumerate(here)]

    return marks(one, two), marks(two, one)


def positions(weights: Any) -> int | None:
    """Most tokens that a model reads. RoBERTa's table of positions begins behind its padding token."""
    from truing.models.core import context_length

    most = context_length(weights)
    table = getattr(getattr(getattr(weights, "base_model", None), "embeddings", None), "position_embeddings", None)
    offset = getattr(table, "padding_idx", None)
    return most if most is None or offset is None else most - offset - 1


def _encoder_shape(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """What stands before, between and behind the two texts of a pair."""
    plain = [list(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in ("a", "b")]
    whole = list(tokenizer("a", "b")["input_ids"])

    def place(part: list[int], start: int) -> int:
        return next(at for at in range(start, len(whole)) if whole[at : at + len(part)] == part)

    first = place(plain[0], 0)
    behind = first + len(plain[0])
    second = place(plain[1], behind)
    return whole[:first], whole[behind:second], whole[second + len(plain[1]) :]


def _decoder_shape(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """The same of a conversation with one question and its answer, as the chat template writes it."""
    from truing.models.chat import encode_plain
    from truing.rewards.model import encode_answered

    # Words that no template holds, so that their places can be found.
    for one, two in (("slotx", "sloty"), ("7351", "9264")):
        whole = encode_answered(tokenizer, one, two)
        found: list[tuple[int, int]] = []
        for word in (one, two):
            part = encode_plain(tokenizer, word)
            start = found[-1][1] if found else 0
            at = next((at for at in range(start, len(whole)) if whole[at : at + len(part)] == part), None)
            if at is None:
                break
            found.append((at, at + len(part)))
        if len(found) == 2:
            return whole[: found[0][0]], whole[found[0][1] : found[1][0]], whole[found[1][1] :]
    raise ModelError(
        "The chat template of this model joins texts with what stands around them, so contexts and claims have no "
        "place of their own in it. Take another model."
    )


# --- making them -----------------------------------------------------------------------------------------------------


def with_heads(model: Any, seed: int = 0) -> AlignmentModel:
    """A copy of a model's body under three new heads; of one with three heads already, a copy.

    Args:
        model: a language model, whose modifiers do not come along, or a score model.
        seed: of the heads.

    Raises:
        UnsupportedError: transformers has no such model for its architecture.
    """
    from truing.methods.training.encoding import padding_id
    from truing.methods.training.policy import score_model
    from truing.models.core import merged

    core = model.weights if isinstance(model, ScoreModel) else merged(model.weights)
    if isinstance(model, AlignmentModel):
        weights = copy.deepcopy(core)
    elif isinstance(model, ScoreModel) or str(getattr(core.config, "model_type", "")) in ENCODERS:
        weights = _reheaded(core, seed)
    else:
        weights = score_model(core, len(LABELS), seed, padding_id(model.tokenizer))
    return AlignmentModel(marked(weights).eval(), model.tokenizer, history=model.history, source=model.source)


def _reheaded(core: Any, seed: int) -> Any:
    """The body of a classifier or of an encoder under a classifier of its own kind. What the body lacks (the pooler of
    a model of masked words) is new, as the heads are."""
    from transformers import AutoModelForSequenceClassification

    from truing.methods.training.policy import seeded

    config = copy.deepcopy(core.config)
    config.num_labels, config.is_decoder = len(LABELS), False
    with seeded(seed):
        made = AutoModelForSequenceClassification.from_config(config, dtype=core.dtype)
    made.base_model.load_state_dict(core.base_model.state_dict(), strict=False)
    return made.to(next(core.parameters()).device)


def marked(weights: Any) -> Any:
    """The same weights, with what the six values are written into their config."""
    setattr(weights.config, MARK, True)
    weights.config.id2label = dict(enumerate(LABELS))
    weights.config.label2id = {label: at for at, label in enumerate(LABELS)}
    return weights


def fresh_encoder(
    texts: Sequence[str], *, vocabulary: int = 6000, width: int = 64, layers: int = 2, heads: int = 4,
    max_length: int = MAX_LENGTH, dropout: float = 0.0, told_matches: bool = True, seed: int = 0,
) -> AlignmentModel:  # fmt: skip
    """A small untrained encoder with a tokenizer learned from texts, in small letters.

    Args:
        texts: what its words are learned from.
        vocabulary: most tokens.
        width: of its states.
        layers: of the network.
        heads: of its attention.
        max_length: most tokens of a pair.
        dropout: within the network.
        told_matches: its token types say which tokens stand on both sides; see `matches`.
        seed: of its weights.
    """
    from transformers import BertConfig, BertForSequenceClassification

    from truing.methods.training.policy import seeded

    tokenizer = _tokenizer(texts, vocabulary, max_length)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=max_length, type_vocab_size=6 if told_matches else 2,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=0,
    )  # fmt: skip
    config.num_labels = len(LABELS)
    setattr(config, MATCHES, told_matches)
    with seeded(seed):
        weights = BertForSequenceClassification(config)
    return AlignmentModel(marked(weights).eval(), tokenizer, source="new encoder")


def _tokenizer(texts: Sequence[str], vocabulary: int, max_length: int) -> Any:
    """Word pieces: all letters, the commonest words, and the commonest beginnings and ends of words. The trainers of
    `tokenizers` break ties by chance, so that the same texts would give other tokens each time."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    normalise = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    split = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in split.pre_tokenize_str(normalise.normalize_str(text)))
    parts: Counter[str] = Counter()
    for word, count in words.items():
        parts.update({word[:size]: count for size in range(2, min(6, len(word)))})
        parts.update({f"##{word[-size:]}": count for size in range(2, min(6, len(word)))})
    letters = sorted({letter for word in words for letter in word})
    held = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters)])
    for found, most in ((words, vocabulary - (vocabulary - len(held)) // 4), (parts, vocabulary)):
        for piece, _ in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            if len(held) >= most:
                break
            held.setdefault(piece)
    backend = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(held)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalise, split
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, special.index(name)) for name in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=max_length,
    )  # fmt: skip


# --- the published layout --------------------------------------------------------------------------------------------


def in_published_layout(folder: Path) -> bool:
    """Whether a folder holds the published checkpoint's tensors, as safetensors."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = file.read(8)
        header = file.read(min(struct.unpack("<Q", size)[0], 2**26)) if len(size) == 8 else b""
    try:
        return "tri_layer.weight" in json.loads(header)
    except ValueError:
        return False


def renamed(tensors: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Tensors of the published checkpoint under the names of transformers' classifiers, which compute the same.

    ``base_model.*`` is the body. ``bin_layer``, ``tri_layer`` and ``reg_layer`` read its pooled state: they become one
    matrix of six rows, and RoBERTa's pooler the first half of its classifier. ``mlm_head.*`` is left out.

    Args:
        tensors: by their published names.
        kind: ``roberta`` or ``bert``, the ``model_type`` of the backbone.

    Raises:
        ModelError: a head is missing, or the backbone is another one.
    """
    import torch

    if kind not in ("roberta", "bert"):
        raise ModelError(f"The published layout is that of RoBERTa and BERT, and config.json says {kind[:40]!r}.")
    names = ("bin_layer", "tri_layer", "reg_layer")
    lacking = [f"{name}.{part}" for name in names for part in ("weight", "bias") if f"{name}.{part}" not in tensors]
    if lacking:
        raise ModelError(f"The checkpoint lacks {lacking[0]}: it is no whole AlignScore model.")
    body = {name.removeprefix("base_model."): value for name, value in tensors.items()
            if name.startswith("base_model.") and not name.endswith("position_ids")}  # fmt: skip
    head = "classifier.out_proj" if kind == "roberta" else "classifier"
    out = {f"{head}.{part}": torch.cat([tensors[f"{name}.{part}"] for name in names]) for part in ("weight", "bias")}
    for name, value in body.items():
        pooled = kind == "roberta" and name.startswith("pooler.dense.")
        out[name.replace("pooler.dense.", "classifier.dense.") if pooled else f"{kind}.{name}"] = value
    return out


def load_published(folder: Path, source: str, *, dtype: Any, device: str) -> AlignmentModel:
    """A folder with the published tensors as ``model.safetensors``, and the backbone's config.json and tokenizer.

    Raises:
        ModelError: tensors are missing or have other shapes than config.json says.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    config.num_labels = len(LABELS)
    held = renamed(load_file(folder / "model.safetensors"), str(config.model_type))
    weights = AutoModelForSequenceClassification.from_config(config)
    try:
        found = weights.load_state_dict(held, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{source} does not fit its config.json: {str(error).splitlines()[-1].strip()}") from error
    lacking = [name for name in found.missing_keys if not name.endswith("position_ids")]
    if lacking or found.unexpected_keys:
        raise ModelError(f"{source} does not fit its config.json: {[*lacking, *found.unexpected_keys][0]}.")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return AlignmentModel(marked(weights).to(dtype).to(device).eval(), tokenizer, source=source)
