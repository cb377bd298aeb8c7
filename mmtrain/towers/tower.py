"""The interface of every tower: a network that turns its input into token features and one pooled vector."""

from torch import Tensor, nn


class Tower(nn.Module):
    """A network with pooled features of width `width`.

    It keeps its arguments for `mmtrain.models.spec.spec_of` and resets `pretrained` once the weights are in, so that it
    is built again without them and filled from a checkpoint.

    Args:
        frozen: Keep all weights, and the statistics of normalisation layers, as they are.
    """

    width: int

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.frozen = frozen

    def apply_frozen(self) -> None:
        """Called at the end of a constructor, when all parameters exist."""
        if self.frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Tower":
        """Training mode, in which a frozen tower stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def blocks(self) -> dict[str, int]:
        """The number of its block, from 0 at the input, for each parameter in one; none where no depth is found.

        Blocks are the members of the longest list of modules of one class, or of several lists as long.
        """
        lists: dict[str, int] = {}
        for name, part in self.named_modules():
            listed = isinstance(part, nn.ModuleList | nn.Sequential) and len({type(each) for each in part}) == 1
            if listed and not any(name.startswith(f"{outer}.") for outer in lists):
                lists[name] = len(part)
        longest = [name for name, length in lists.items() if length == max(lists.values())]
        names = [name for name, _ in self.named_parameters()]
        return {
            name: int(name.removeprefix(f"{outer}.").split(".")[0])
            for outer in longest
            for name in names
            if name.startswith(f"{outer}.")
        }

    def checkpoint_activations(self) -> None:
        """Recomputes activations in the backward pass to save memory. Raises ValueError where the network cannot."""
        raise ValueError(f"--model.checkpoint_activations: {type(self).__name__} cannot; use --model.micro_batch")


class ImageTower(Tower):
    """forward(images [N, ...]) -> (pooled [N, width], tokens [N, P, width]).

    Attributes:
        prefix_tokens: How many tokens stand before those of the patches, a square of them; None where tokens are none.
        option: What a config calls it, for messages.
    """

    prefix_tokens: int | None = None
    option = "model.image"

    def masked(self, images: Tensor, mask: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """forward with `token` [width] in place of the embedded patches of `mask` bool [N, P].

        Raises:
            ValueError: where the tower cannot.
        """
        raise ValueError(
            f"model.image: {type(self).__name__} cannot mask patches; expected a vision transformer of timm"
        )

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError, one line, for pictures of a shape that it cannot read."""

    def places(self, images: Tensor) -> Tensor | None:
        """Which of its tokens there are, bool [N, P], of pictures of free size; None for all."""
        return None

    def unread_by_texts(self) -> nn.Module | None:
        """What texts do not go through where they share the tower; None where they go through all."""
        return None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features [N, width] and tokens [N, P, width] of pixels uint8 [N, 3, H, W], or of features.

        Raises:
            ValueError: for features of another width.
        """
        raise NotImplementedError


class TextTower(Tower):
    """forward(tokens int64 [N, L], mask bool [N, L], languages int64 [N]) -> (pooled [N, W], features [N, L, W])."""

    vocabulary_size: int  # token ids; the tokenizer must not have more
    positions: int | None = None  # tokens of the longest text that it reads; None: of any length
    reads_by_language: bool = False  # whether it has a network for each language
    prefix_tokens: int | None = None  # features before those of the tokens

    def places(self, tokens: Tensor, mask: Tensor, count: int) -> Tensor:
        """Which of the first `count` tokens there are, behind the prefix: bool [N, count]; forward's arguments."""
        return mask[:, :count]

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pooled features [N, width] and those of the tokens [N, L, width].

        Args:
            tokens: int64 [N, L]; where the mask is False, they do not matter.
            mask: bool [N, L].
            languages: int64 [N], the numbers of the captions' languages, for towers that read by language.

        Raises:
            ValueError: where a tower that reads by language gets none, or one that it lacks.
        """
        raise NotImplementedError
