"""`mmtrain push`: an exported folder made ready for a model hub, and sent there when asked."""

from collections.abc import Mapping
from typing import Annotated

from mmtrain.commands.usage import Folder
from mmtrain.display.messages import say


def push(
    folder: Folder,
    repository: Annotated[str, "OWNER/NAME"],
    *,
    licence: str,
    datasets: Annotated[list[str], "[OWNER/NAME,...]"] | None = None,
    measured_on: Annotated[str, "OWNER/NAME"] | None = None,
    tasks: Annotated[Mapping[str, str], "[TASK=text_to_image/lv/R@1,...]"] | None = None,
    upload: bool = False,
    private: bool = False,
) -> None:
    """Completes the model card of an export, lists what would be sent, and sends it with `upload`.

    Args:
        folder: What mmtrain export wrote.
        repository: OWNER/NAME on the hub.
        licence: As the hub spells it, e.g. apache-2.0.
        datasets: The hub's datasets that the model was trained on.
        measured_on: The hub's dataset that the card's figures are of.
        tasks: Tasks of that dataset, as its eval.yaml calls them, each with the figure of the card that it is. They go
            into .eval_results, which the dataset's leaderboard reads.
        upload: Send it; without this nothing leaves the machine.
        private: A new repository is private.

    Raises:
        ValueError: for a folder that is no export, files that can carry code, absolute paths in what would be sent, a
            name that is no repository's, a card without the figures that were measured_on something, or tasks without
            a dataset or of no figure.
    """
    from mmtrain.export.hub import prepare, send

    names = prepare(folder, repository, licence, datasets=datasets or (), measured_on=measured_on, tasks=tasks)
    if upload:
        say(f"sent to {repository}, commit {send(folder, names, repository, private)}")
    else:
        say(f"{folder} is ready; --upload sends it to {repository}")
