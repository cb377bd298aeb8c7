"""metrics.csv in the run folder, always; wandb in one line: --trainer.logger mmtrain.loggers.Wandb."""

import csv
import json
import secrets
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from datamodules.files import whole_file, write_whole
from mmtrain.display.messages import one_line

IDENTITY = Path("wandb") / "run.json"  # in the run folder: which wandb run it is


class MetricsFile(Logger):
    """Appends a row a logging step to `<folder>/metrics.csv`.

    Lightning's own CSV logger rewrites the file from memory, so a resumed run loses its beginning. This one appends;
    `continue_from` drops only the rows behind the checkpoint, which the resumed run writes again.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []

    name = "metrics"
    version = ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def start_anew(self) -> None:
        """Removes the file of an earlier run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)

    @rank_zero_only
    def continue_from(self, step: int, row: dict[str, Any] | None = None) -> None:
        """Keep the complete rows up to `step`, and add `row`, the one of the checkpoint, where it was not written."""
        rows = [row for row in self._rows() if None not in row.values() and int(row["step"]) <= step]
        if row is not None and not any(int(other["step"]) == row["step"] for other in rows):
            rows.append(row)
        if rows:
            self._columns = list(dict.fromkeys(key for row in rows for key in row))
            self._rewrite(rows)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass  # config.yaml holds them

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {"step": step, **metrics}
        fresh = [key for key in row if key not in self._columns]
        if fresh:
            self._columns += fresh
            self._rewrite([*self._rows(), row])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, rows: list[dict]) -> None:
        with whole_file(self.path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


class Wandb(WandbLogger):
    """One wandb run for one run folder, through every restart.

    The run's id is kept in `<run folder>/wandb/run.json`, where its files are too; samples seen are the x-axis, so that
    going back to a checkpoint is legal. WANDB_MODE=offline works without a network.

    Args:
        project: wandb's project.
        name: Name of the run; the run folder's name by default.
        group: Group of runs.
        tags: Tags.
        notes: Free text.
        log_model: Upload best.ckpt, config.yaml and a model card as an artifact when the training has ended.
        kwargs: Further ones of Lightning's WandbLogger, which passes those it does not know to wandb.init; `id` is that
            of a new run folder's run.
    """

    def __init__(
        self,
        project: str = "mmtrain",
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        log_model: Literal["all"] | bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, project=project, **kwargs)
        self._wandb_init |= {"group": group, "tags": tags, "notes": notes}
        self._log_checkpoints = bool(log_model)
        self.identity: str | None = None

    def attach(self, folder: Path, identity: str | None = None, group: str | None = None) -> None:
        """Called before anything is logged.

        Args:
            folder: The run folder.
            identity: Id of the run whose checkpoint goes on.
            group: Name of the run whose stage the folder is, where it is one.
        """
        self._save_dir = str(folder)
        name = folder.resolve().name
        names = {"name": name} if group is None else {"name": f"{group}/{name}", "group": group}
        if group is not None and self._id is not None:
            self._id = f"{self._id}-{name}"
        self._id = self._identity(folder, identity or self._id)
        given = {key: value for key, value in self._wandb_init.items() if value is not None}
        self._wandb_init = names | given
        self._wandb_init |= {"dir": self._save_dir, "id": self._id, "resume": "allow"}

    @property
    def experiment(self) -> Any:
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            run = self._init()
            if run.id != self.identity and not run.disabled:  # a sweep's agent and wandb launch give their own
                self._write_identity(Path(self._wandb_init["dir"]), run.id, run.project)
            if hasattr(run, "define_metric"):
                run.define_metric("samples_seen")
                run.define_metric("*", step_metric="samples_seen")
        return super().experiment

    def _init(self) -> Any:
        """The wandb run; an offline one, saying so, where the server does not answer."""
        import wandb

        try:
            return super().experiment
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            if self._wandb_init.get("mode") == "offline":
                raise
            _give_up(error, self._wandb_init["dir"])
            self._wandb_init["mode"] = "offline"
            return super().experiment

    @rank_zero_only
    def log_config(self, config: dict[str, Any]) -> None:
        """Writes the run's config, which a resumed run may change."""
        self.experiment.config.update(config, allow_val_change=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        folder = Path(self._wandb_init["dir"])
        checkpoint = folder / "checkpoints" / "best.ckpt"
        if status == "success" and self._log_checkpoints and self._experiment is not None and checkpoint.exists():
            import wandb

            from mmtrain.models.card import model_card
            from mmtrain.models.loading import load

            artifact = wandb.Artifact(f"model-{self.identity}", type="model")
            artifact.add_file(str(checkpoint))
            artifact.add_file(str(folder / "config.yaml"))
            with artifact.new_file("README.md", encoding="utf-8") as card:
                card.write(model_card(load(checkpoint), str(folder), "safetensors"))
            self._experiment.log_artifact(artifact)

    @rank_zero_only
    def finish(self) -> None:
        """Ends the wandb run, where this process has another one to come."""
        if self._experiment is not None:
            self._experiment.finish()

    def _identity(self, folder: Path, identity: str | None) -> str | None:
        if getattr(rank_zero_only, "rank", 0) != 0:
            return None
        path = folder / IDENTITY
        if not path.exists():
            self._write_identity(folder, identity or secrets.token_hex(4), self._wandb_init["project"])
        self.identity = json.loads(path.read_text(encoding="utf-8"))["id"]
        return self.identity

    def _write_identity(self, folder: Path, identity: str, project: str) -> None:
        write_whole(folder / IDENTITY, json.dumps({"id": identity, "project": project}))
        self.identity = identity


def _give_up(error: Exception, folder: str | Path) -> None:
    """Says that a run is kept offline, before it begins a second time."""
    import wandb

    rank_zero_warn(
        f"wandb cannot be used ({one_line(str(error))}); the run is kept offline in {folder}/wandb, `wandb sync` sends"
        " it later"
    )
    wandb.teardown()  # its service still holds the id of the run that could not begin


def log_report(folder: Path, metrics: dict[str, Any], figures: dict[str, Any]) -> None:
    """Adds an evaluation's figures and pictures to the wandb run of a run folder, where it has one.

    Args:
        figures: matplotlib figures by caption.
    """
    path = folder / IDENTITY
    if not path.exists():
        return
    import wandb

    from mmtrain.evaluation.metrics.retrieval import flat_figures

    identity = json.loads(path.read_text(encoding="utf-8"))
    pictures = {f"report/{caption}": wandb.Image(figure) for caption, figure in figures.items()}
    numbers = {f"test/{name}": value for name, value in flat_figures(metrics).items()}
    begin = partial(wandb.init, id=identity["id"], project=identity["project"], resume="allow", dir=str(folder))
    try:
        run = begin()
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        _give_up(error, folder)
        run = begin(mode="offline")
    with run:
        run.log(numbers | pictures)
