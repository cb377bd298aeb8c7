"""The text of a batch script."""

import shlex
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slurm.arrays import in_shell
from slurm.options import Options
from slurm.site import Site

RESTARTS = 20


@dataclass(frozen=True)
class Script:
    """One job as a batch script.

    Args:
        command: The command line that made it, for its first lines.
        options: sbatch's options by their long names; None for one without a value.
        arguments: The verb and its arguments; `{task}` and `{tasks}` in them stand for the array task's number and
            the number of tasks.
        folder: Keeps the script and the job's log.
        resumes: Whether the verb can be stopped by a signal and go on, as `fit` can.
        restarts: How often at most.
        overrides: Further arguments of each array task, by its number.
        program: What runs a verb; a container's own `mmtrain` where the site has one.
    """

    command: list[str]
    options: Options
    arguments: list[str]
    folder: Path
    resumes: bool = False
    restarts: int = RESTARTS
    overrides: dict[int, list[str]] = field(default_factory=dict)
    program: str = "mmtrain"
    site: Site = field(default_factory=Site)

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: for a control character, such as a line break, behind which the shell would run what follows.
        """
        container = self.site.container
        for text in (
            *self.command,
            *(part for name, value in self.options.items() for part in (name, value or "")),
            *self.arguments,
            *(word for words in self.overrides.values() for word in words),
            str(self.folder),
            *self.site.modules,
            *(str(value) for value in self.site.environment.values()),
            *([container.image, *container.mounts, *container.options] if container else []),
        ):
            if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
                raise ValueError(f"{text!r} has a control character; expected one line of text")

    def text(self) -> str:
        container = self.site.container
        program = "mmtrain" if container else shlex.quote(self.program)
        words = [f"{container.wrap() if container else ''}{program}", *map(in_shell, self.arguments)]
        if self.overrides:
            words.append('"${overrides[@]}"')
        template = _TEMPLATES.get_template("job.sbatch.jinja")
        return template.render(
            command=shlex.join(self.command),
            options=[_option(name, value) for name, value in self.options.items()],
            modules=shlex.join(self.site.modules),
            setup=self.site.setup.strip().splitlines(),
            environment={name: shlex.quote(str(value)) for name, value in self.site.environment.items()},
            overrides={task: " ".join(map(in_shell, words)) for task, words in self.overrides.items()},
            cpus="cpus-per-task" in self.options,
            resumes=self.resumes,
            restarts=self.restarts,
            stopped=shlex.quote(str(self.folder / "stopped-")) + "$SLURM_JOB_ID",
            launch=container.launch() if container else "",
            program=_broken(words),
        )


def _broken(words: list[str]) -> str:
    """A command over several lines, each beginning with an option."""
    return "".join((" \\\n    " if word.startswith(("-", "'-")) else " ") + word for word in words).lstrip()


def _option(name: str, value: str | None) -> str:
    dashes = "--" if len(name) > 1 else "-"
    if value is None:
        return dashes + name
    return f"{dashes}{name}{'=' if len(name) > 1 else ' '}{shlex.quote(value)}"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
