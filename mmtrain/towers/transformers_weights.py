"""Models of transformers with the weights of a folder or hub name, all of them, in float32."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmtrain.display.messages import brief, first_line
from mmtrain.towers.pretrained import is_refused, pretrained_folder

# buffers that some versions of transformers store with the weights; each model makes its own
POSITIONS = ("position_ids", "token_type_ids")
LEARNED = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' warnings, tables and bars to themselves: what matters is said in one line of ours."""
    from transformers.utils import logging as transformers_logging  # seconds to import, so only who uses it pays

    level, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()


def network_of(
    tower: str,
    pretrained: str | None,
    config: dict[str, Any] | None,
    factory_of: Callable[[Any], Any],
    unused: tuple[str, ...] = (),
) -> tuple[Any, Any]:
    """A network of transformers and its config: the weights of a folder or hub name, or random ones of a config.

    Args:
        tower: Which it is for, in messages.
        pretrained: A hub name, NAME or NAME@COMMIT, or a folder.
        config: A config as a mapping with its model_type, where there is no `pretrained`.
        factory_of: From the config to AutoModel or its like.
        unused: As of `from_pretrained`.

    Raises:
        ValueError: when neither or both are given, transformers cannot read them, or weights are missing.
    """
    from transformers import AutoConfig

    if (pretrained is None) == (config is None):
        raise ValueError(f"{tower} tower: give either `pretrained` (hub name or folder) or `config` (with model_type)")
    config = config or {}
    try:
        if pretrained is None:
            settings = AutoConfig.for_model(**{"model_type": "", **config})
            factory = factory_of(settings)
            return factory.from_config(settings, dtype=torch.float32, trust_remote_code=False), settings
        folder = pretrained_folder(pretrained)
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return from_pretrained(factory_of(settings), str(folder), unused), settings
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        source = pretrained if pretrained is not None else config.get("model_type", "a config without model_type")
        raise ValueError(f"{tower} tower: transformers cannot load {source!r}: {first_line(error)}") from error


def described_config(settings: Any) -> dict[str, Any]:
    """A config of transformers as a mapping that builds the network again, and names no file."""
    fields = {key: value for key, value in settings.to_diff_dict().items() if key != "_name_or_path"}
    config = {key: value for key, value in fields.items() if not is_refused(key, value)}
    config["model_type"] = settings.model_type
    config.pop("dtype", None)  # of the file; the weights here are float32
    return config


def from_pretrained(factory: Any, source: str, unused: tuple[str, ...] = ()) -> Any:
    """What `factory.from_pretrained(source)` gives, in float32 whatever the file's type is.

    Args:
        factory: AutoModel or its like.
        source: A folder or hub name.
        unused: Prefixes of weights that nobody reads and the file may lack.

    Raises:
        ValueError: naming the weights that the file lacks or has in another shape; transformers would draw them.
    """
    with quiet():
        network, found = factory.from_pretrained(
            source,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = [name for name in found["missing_keys"] if not name.startswith(unused) and not name.endswith(POSITIONS)]
    if missing:
        raise ValueError(f"its file lacks {len(missing)} weights of {type(network).__name__}: {brief(sorted(missing))}")
    if mismatched := sorted(found["mismatched_keys"]):
        name, theirs, ours = mismatched[0]
        raise ValueError(
            f"{len(mismatched)} weights in its file do not fit {type(network).__name__}: {name} is {list(theirs)} in"
            f" the file, {list(ours)} in the model"
        )
    return network


def positions(network: nn.Module) -> int | None:
    """Tokens of the longest text that the learned positions of a model of transformers reach; None without any."""
    for name, each in network.named_modules():
        if isinstance(each, nn.Embedding) and name.endswith(LEARNED):
            # RoBERTa and its like count from behind the padding's index, BART and its like from 2
            first = getattr(each, "offset", 0) if each.padding_idx is None else each.padding_idx + 1
            return each.num_embeddings - int(first)
    return None


def keep_positions(network: nn.Module, state: dict[str, Tensor], prefix: str, *others: object) -> None:
    """Before weights are loaded: buffers of positions stay the network's own, whether the file has them or not."""
    for name in [name for name in state if name.startswith(prefix) and name.endswith(POSITIONS)]:
        del state[name]
    own = {f"{prefix}{name}": value for name, value in network.state_dict().items() if name.endswith(POSITIONS)}
    state.update(own)
