"""Tokens of a text, as the tokenizer of the benchmarks counts them."""

import warnings
from functools import cache
from typing import Any


@cache
def _encoding() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the package itself
        import bpe_openai

        return bpe_openai.get_encoding("o200k_base")


def count_tokens(text: str) -> int:
    """Return the number of tokens in o200k_base, whose vocabulary ships inside the package."""
    return len(_encoding().encode(text))
