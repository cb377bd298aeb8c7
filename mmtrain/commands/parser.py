"""The parser of `mmtrain fit`: names of languages and classes are text, and every mistake is one line."""

import inspect
import json
import sys
import types
from typing import Any, NoReturn, Union, get_args, get_origin

import yaml
from jsonargparse import Namespace, _typehints, set_dumper, set_loader
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import WandbLogger

from mmtrain.commands.mistakes import GROUPS, explained
from mmtrain.commands.stages import Stage
from mmtrain.display.messages import say
from mmtrain.models.yaml12 import read_yaml, yaml_text

HELP = """\
usage: mmtrain fit --config FILE [--any.option value ...]

  --config FILE                    a page such as configs/pretrain/tiny.yaml, or the name of one that comes with
                                   mmtrain, such as pretrain/tiny; a later page, or an option, changes it
  --data.train, --data.val SHARDS  a folder, a tar, a brace pattern, or several joined with ::
  --data.languages [en,lv]         --data.captions_per_image K  --data.batch_size N  --data.workers N
  --model.objectives, --model.image, --model.text  --model.learning_rate X  --model.micro_batch N
  --trainer.default_root_dir DIR   the run folder; --trainer.max_steps N, --trainer.devices N, --trainer.precision P
  --checkpoint.every_n_steps N     --checkpoint.every_minutes M  --guard.nonfinite_steps N
  --ckpt_path last                 goes on from the run folder's last checkpoint
  --start_from CHECKPOINT          takes the weights of model, objectives and heads, and trains anew
  --print_config                   prints the whole config and ends

A page may have `stages:`, a list of overrides: each stage trains in the run folder's 1, 2 and so on, from the weights
of the one before. An option on the command line holds for every stage.

What a class takes is listed by --model.help CLASS, --data.help CLASS, --trainer.callbacks.help CLASS and so on:
  mmtrain fit --model.help ContrastiveModule, RelationModule;  --data.help ShardDataModule, RelationDataModule

Every option:
"""


class Parser(LightningArgumentParser):
    """Answers wrong usage with one line and exit code 2.

    Attributes:
        stage: Whose arguments are parsed; None for a page without stages.
    """

    stage: Stage | None = None
    _page = ""  # of --config, while it is read

    def parse_path(self, path: Any, *others: Any, **options: Any) -> Any:
        self._page = f"--config {path}: "
        page = super().parse_path(path, *others, **options)
        self._page = ""
        return page

    def parse_string(self, content: str, *others: Any, **options: Any) -> Any:
        if self.stage is not None and self._page and isinstance(page := read_yaml(content), dict):
            content = yaml_text({name: value for name, value in page.items() if name != "stages"})
        found = super().parse_string(content, *others, **options)
        known = [action.dest for action in self._actions]
        for name, value in found.items():
            if name in GROUPS:
                self.error(f"Parser key \"{name}\":\n  Unable to load config '{value}'")
            if not any(name == option or name.startswith(f"{option}.") for option in known if option not in GROUPS):
                self.error(f"Option '{name}' is not accepted")
        return found

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of a class inside of the config: the parser around it says whose option it is
            super().error(message, ex)
        line = explained(message)
        if self._page:
            line = self._page + line.removeprefix("--")
        elif self.stage is not None:
            line = self.stage.named(line)
        say(f"mmtrain fit: error: {line}", file=sys.stderr)
        sys.exit(2)


def _text_where_text_fits(value: Any, hint: Any, *arguments: Any, **options: Any) -> Any:
    """As jsonargparse, but a number or boolean where only text will do is text: a class 1, a column 2024."""
    if isinstance(value, int | float):
        if get_origin(hint) in (Union, types.UnionType) and str in get_args(hint):
            hint = Union[(*(part for part in get_args(hint) if part is not str), str)]  # what is not text comes first
        elif hint is str:
            value = json.dumps(value)
    return _adapted(value, hint, *arguments, **options)


_adapted = _typehints.adapt_typehints
vars(_typehints)["adapt_typehints"] = _text_where_text_fits  # jsonargparse has no public place for it
set_loader("yaml", read_yaml, (yaml.YAMLError,))
set_dumper("yaml", yaml_text)


# of Lightning's, what works with a run folder and its checkpoints in a version of ours alone
OURS: dict[str, tuple[type, str]] = {
    "WandbLogger": (WandbLogger, "mmtrain.loggers.Wandb"),
    "EMAWeightAveraging": (EMAWeightAveraging, "mmtrain.training.averaging.WeightAverage"),
}
SETTLED = {"save_dir", "dir", "device", "use_buffers"}  # arguments of theirs that ours settle themselves


def ours(given: Any) -> Any:
    """The config of loggers or callbacks, in which ours replace some of Lightning's and take their arguments."""
    if isinstance(given, list):
        return [ours(each) for each in given]
    package, _, name = str(getattr(given, "class_path", None)).rpartition(".")
    if not package.startswith("pytorch_lightning.") or name not in OURS:
        return given
    theirs, path = OURS[name]
    defaults = {key: parameter.default for key, parameter in inspect.signature(theirs).parameters.items()}
    arguments = {
        key: value for key, value in vars(given.init_args).items() if value != defaults.get(key) and key not in SETTLED
    }
    if "update_starting_at_epoch" in arguments:
        return given  # ours counts steps
    return Namespace(class_path=path, init_args=Namespace(**arguments))
