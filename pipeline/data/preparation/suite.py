"""The held-out questions of the built-in world, with their tokens."""

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast


def suite_rows(
    tokenizer: PreTrainedTokenizerFast, items: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield each item with the ids of its prompt and options, and the index of the counted option.

    With the ids, training and validation need no tokenizer. In a contest the option of the primary
    source is counted. In a control no source is better, and that of the one quoted first is.
    """
    for item in items:
        prompt_ids = tokenizer.encode(item["prompt"])
        quoted = [item["prompt"].find(f"{option}.") for option in item["options"]]
        yield {
            **item,
            "counted": quoted.index(min(quoted)) if item["primary"] is None else item["primary"],
            "prompt_ids": prompt_ids,
            "option_ids": [
                option_ids(tokenizer, item["prompt"], prompt_ids, option)
                for option in item["options"]
            ],
        }


def option_ids(
    tokenizer: PreTrainedTokenizerFast, prompt: str, prompt_ids: list[int], option: str
) -> list[int]:
    """Return the ids of an option that continues its prompt.

    They are those that follow the prompt's ids in the whole text. Where the tokenizer merges the
    end of the prompt with the option, they are those of the option alone.
    """
    whole = tokenizer.encode(prompt + option)
    if whole[: len(prompt_ids)] == prompt_ids:
        return whole[len(prompt_ids) :]
    return tokenizer.encode(option, add_special_tokens=False)
