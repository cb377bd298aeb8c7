"""What objectives that predict tokens ask of the data's tokenizer."""

from typing import Any

import torch
from torch import Tensor


def special_ids(data: Any) -> Tensor:
    """Ids that stand for no text and are not predicted. Raises ValueError for a tokenizer whose tokens are no ids."""
    tokenizer = data.tokenizer
    if tokenizer([""], data.languages[:1])[0].dim() != 2:
        raise ValueError(
            f"data.tokenizer: {type(tokenizer).__name__} gives no ids, and the objective predicts tokens; another one"
        )
    return torch.tensor(sorted(tokenizer.special_ids), dtype=torch.int64)
