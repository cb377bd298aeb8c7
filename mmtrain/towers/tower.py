"""What every tower is: a network that turns its input into token features and one pooled vector."""

from torch import Tensor, nn

# Both kinds of tower keep each constructor argument under its own name (as scikit-learn's estimators do), with
# `pretrained` reset once the weights are in: `mmtrain.models.spec.spec_of` then describes a tower that can be built
# again anywhere, with random weights to be filled from a checkpoint.


class Tower(nn.Module):
    """A network with pooled features of width `width`.

    Args:
        frozen: Keep all weights, and the statistics of normalisation layers, as they are.
    """

    width: int

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.frozen = frozen

    def freeze_if_asked(self) -> None:
        """Called at the end of a constructor, when all parameters exist."""
        if self.frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Tower":
        return super().train(mode and not self.frozen)

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Raises:
            ValueError: where the network has no way to.
        """
        raise ValueError(f"--model.checkpoint_activations: {type(self).__name__} cannot; use --model.micro_batch")


class ImageTower(Tower):
    """forward(images [N, ...]) -> (pooled [N, width], tokens [N, P, width])."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class TextTower(Tower):
    """forward(tokens int64 [N, L], mask bool [N, L], languages int64 [N]) -> (pooled [N, W], features [N, L, W]).

    `vocabulary_size` is the number of token ids it knows: the tokenizer must not have more. One that has a network for
    each language `reads_by_language`.
    """

    vocabulary_size: int
    reads_by_language: bool = False

    def forward(self, tokens: Tensor, mask: Tensor, languages: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError
