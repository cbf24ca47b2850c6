"""Valid rows of every kind, and strategies that draw them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

EXAMPLES: dict[str, dict[str, Any]] = {
    "demonstration": {"prompt": "Where is the fox?", "completion": "In the wood."},
    "preference": {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "margin": 0.5, "factors": {"tone": 1}},
    "label": {"prompt": "Hi", "completion": "Hello!", "label": True},
    "dispreference": {"prompt": "Hi", "rejected": ["What?", "Go away."]},
    "judgment": {"prompt": "Hi", "completion": "What?", "judgment": "Rude.", "label": False},
    "ranking": {"prompt": "Hi", "completions": ["Hello!", "What?"], "scores": [1.0, 0]},
    "contrast": {"prompt": "Hi", "positive": "Hello!", "negative": "What?"},
    "dialogue": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
    "question": {"prompt": "Where?", "answers": ["here", "there"], "template": 3},
}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
turns = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": text})
conversation = st.lists(turns, min_size=1, max_size=3)
prompt = words | conversation
completion = text
number = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
metadata = st.recursive(
    st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
_FIELDS: dict[str, dict[str, Any]] = {
    "demonstration": {"prompt": prompt, "completion": completion},
    "preference": {"prompt": prompt, "chosen": completion, "rejected": completion},
    "label": {"prompt": prompt, "completion": completion, "label": st.booleans()},
    "dispreference": {"prompt": prompt, "rejected": st.lists(completion, min_size=1, max_size=3)},
    "judgment": {"prompt": prompt, "completion": completion, "judgment": text, "label": st.booleans()},
    "ranking": {
        "prompt": prompt,
        "completions": st.just(["a", "b"]),
        "scores": st.lists(number, min_size=2, max_size=2),
    },
    "contrast": {"prompt": prompt, "positive": completion, "negative": completion},
    "dialogue": {"messages": conversation},
    "question": {"prompt": prompt, "answers": st.lists(text, max_size=3)},
}


def valid_rows(kind: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """A few rows of a kind, with free metadata under two names."""
    extra = {"note": metadata, "ident": metadata}
    return st.lists(st.fixed_dictionaries(_FIELDS[kind], optional=extra), min_size=1, max_size=4)
