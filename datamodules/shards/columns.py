"""Which columns of a table are a sample's picture, captions and labels: by their usual names, or as a user names them.

A user names them behind SHARDS: photos/[image=photo,captions.en=title,labels.mood=feeling]. ROLE=COLUMN, where a role
is `image`, `id`, `image_id`, `captions`, `captions.LANGUAGE`, `labels.TASK`, `language`, `query`, `positive`,
`negatives`, `score`, `scores`, or a name of a to z and _ for a further picture or features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

# role -> the names of columns that have it where nothing else is said, likeliest first
USUAL = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "image_path", "npy"),
    "captions": ("captions", "caption", "texts", "text", "sentences", "sentence", "raw", "txt", "translation"),
    "id": ("id", "key", "__key__", "image_id"),
    "image_id": ("image_id",),
    "labels": ("labels", "label"),
    "language": ("language",),
    "query": ("query", "anchor"),
    "positive": ("positive",),
    "negatives": ("negatives", "negative"),
    "score": ("score",),
    "scores": ("scores",),
}
TEXTS = {"text", "texts", "object"}
KINDS = {  # role -> what a column of it may hold
    "image": {"bytes", "picture", "text", "features"},
    "id": {"text", "whole"},
    "image_id": {"text", "whole"},
    "labels.": {"text", "whole"},
    "captions.": {"text", "texts"},
    "language": {"text"},
    "score": {"whole", "float"},
    "scores": {"features", "list"},
    "file": {"bytes", "picture", "text", "features"},
    "captions": TEXTS,
    "query": TEXTS,
    "positive": TEXTS,
    "negatives": TEXTS,
}
BY_LANGUAGE = re.compile(rf"((?:{'|'.join(USUAL['captions'])})[_.-])?(([a-z]{{2,3}})(?:[-_][A-Za-z]{{2,4}})?)")
LANGUAGE, TEXT = ("language", "lang", "locale"), ("text", "caption", "translation", "raw", "sentence")
NAMED = re.compile(r"captions\.[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*|labels\..+|[a-z_]+")


@dataclass
class Columns:
    """Which column of a table is what.

    Attributes:
        image: None without one.
        captions: Column of texts in no or in several languages.
        languages: Language -> column of captions.
        labels: Task -> column; "" for one that holds tasks itself.
        classes: Task -> the names of its classes, [] where the table does not say them.
        texts: Role of a record's own key -> columns: id, query, negatives, score and so on.
        files: Name of a further picture or of features -> column.
        features: Those of image and files that hold numbers.
        others: Columns that travel in the record.
        unread: All else.
    """

    image: str | None = None
    captions: str | None = None
    languages: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    others: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def spoken(self) -> list[str]:
        """The columns of texts and labels: all that says what a sample holds, but its files."""
        texts = [name for role, names in self.texts.items() if role not in ("id", "image_id") for name in names]
        return list(dict.fromkeys([*self._captions(), *self.labels.values(), *texts]))

    @property
    def written(self) -> list[str]:
        """The columns that make a record."""
        return list(
            dict.fromkeys([*self.spoken, *(name for names in self.texts.values() for name in names), *self.others])
        )

    def _captions(self) -> list[str]:
        return [*([] if self.captions is None else [self.captions]), *self.languages.values()]

    def described(self) -> str:
        """For a line: which column is what, and which are not read."""
        roles = {"image": self.image, "captions": self.captions}
        roles |= {f"captions.{language}": name for language, name in self.languages.items()}
        roles |= {f"labels.{task}".rstrip("."): name for task, name in self.labels.items()}
        roles |= {role: ", ".join(names) for role, names in self.texts.items()} | dict(self.files)
        read = ", ".join(f"{role}={name}" for role, name in roles.items() if name is not None)
        return f"columns: {read}" + (f"; not read: {', '.join(self.unread)}" if self.unread else "")

    def record(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The record of a sample, as its JSON would be, from the columns that were read."""
        record = {name: row[name] for name in self.others if name in row}
        for role, names in self.texts.items():
            values = [row[name] for name in names if row.get(name) is not None]
            if values:
                record[role] = values[0] if len(names) == 1 else [text for each in values for text in _listed(each)]
                record[role] = str(record[role]) if role in ("id", "image_id") else record[role]
                record[role] = texts_in(record[role]) if role in ("query", "positive", "negatives") else record[role]
        captions = {language: row[name] for language, name in self.languages.items()}
        if self.captions is not None:
            found = texts_in(row[self.captions])
            captions |= found if isinstance(found, dict) else {}
            record |= {} if isinstance(found, dict) else {"caption": found}
        record |= {"captions": captions} if captions else {}
        labels: dict[str, Any] = {}
        for task, name in self.labels.items():
            labels |= (row[name] or {}) if task == "" else {task: self._label(task, row[name])}
        return record | ({"labels": labels} if labels else {})

    def _label(self, task: str, value: Any) -> Any:
        """A class in words where they are known; -1 is none."""
        names = self.classes.get(task)
        value = int(value) if isinstance(value, bool) else value
        if not names or not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None


def texts_in(value: Any) -> Any:
    """A text or list of texts, or either by language: of {"language", "text"}, lists of such, or a map's pairs."""
    if isinstance(value, Mapping):
        language, text = (next((name for name in names if name in value), None) for names in (LANGUAGE, TEXT))
        if text is None:
            return value
        if language is None:
            return value[text]
        pairs = zip(_listed(value[language]), _listed(value[text]), strict=False)
        return _by_language(pairs)
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return dict(value)
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        every = [texts_in(each) for each in value if each is not None]
        if any(isinstance(each, Mapping) for each in every):
            return _by_language(pair for each in every if isinstance(each, Mapping) for pair in each.items())
        return [text for each in every for text in _listed(each)]
    return value


def _by_language(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list]:
    texts: dict[Any, list] = {}
    for language, text in pairs:
        texts.setdefault(language, []).extend(_listed(text))
    return texts


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def named_columns(text: str) -> dict[str, str]:
    """Role -> column of "image=photo,captions.en=title". Raises ValueError, one line."""
    named: dict[str, str] = {}
    for part in text.split(",") if text else ():
        role, _, column = (each.strip() for each in part.partition("="))
        if not column or not NAMED.fullmatch(role) or role in named:
            raise ValueError(f"[{text}]: {part!r} names no column; ROLE=COLUMN, as in [image=photo,captions.en=title]")
        named[role] = column
    return named


def choose_columns(schema: pyarrow.Schema, named: Mapping[str, str], file: str) -> Columns:
    """Which column is what: as named, else by its name and type. Raises ValueError, one line, where nothing fits."""
    kinds = {each.name: kind_of(each.type) for each in schema}
    for role, name in named.items():
        if name not in kinds:
            raise ValueError(f"{file}: no column {name!r} for {role}; its columns: {', '.join(kinds)}")
        if kinds[name] not in _accepted(role):
            raise ValueError(f"{file}: column {name!r} is {schema.field(name).type}; {role} takes {_shown(role)}")
    roles = dict(named)
    for role, names in USUAL.items():
        if role not in roles and not any(other.startswith(f"{role}.") for other in roles):
            fits = [name for name in names if kinds.get(name) in _accepted(role)]
            fits = [name for name in fits if name not in named.values() or role in ("id", "image_id")]
            roles |= {role: fits[0]} if fits else {}
    languages = {role.removeprefix("captions."): name for role, name in roles.items() if role.startswith("captions.")}
    if not languages and "captions" not in named:
        languages = _languages(
            name for name in kinds if kinds[name] in KINDS["captions."] and name not in roles.values()
        )
    if languages and "captions" not in named:
        roles.pop("captions", None)  # it travels in the record
    columns = Columns(roles.get("image"), roles.get("captions"), languages)
    for role, name in roles.items():
        if role == "labels":
            columns.labels = {"": name} if kinds[name] == "object" else {name: name}
        elif role.startswith("labels."):
            columns.labels[role.removeprefix("labels.")] = name
        elif role in USUAL and role not in ("image", "captions"):
            columns.texts[role] = [name]
        elif role not in USUAL and not role.startswith("captions."):
            columns.files[role] = name
    if "negatives" not in named and (more := [name for name in kinds if re.fullmatch(r"negative_?\d+", name)]):
        columns.texts["negatives"] = [*columns.texts.get("negatives", ()), *more]
    files = [name for name in (columns.image, *columns.files.values()) if name is not None]
    columns.features = frozenset(name for name in files if kinds[name] == "features")
    used = {*files, *columns.written}
    reserved = {"caption", *USUAL}  # under these names a record says something else
    for each in schema:
        if each.name not in used:
            travels = each.name not in reserved and kinds[each.name] not in ("bytes", "picture", "features")
            (columns.others if travels and "binary" not in str(each.type) else columns.unread).append(each.name)
    if not (files or columns.spoken):
        example = f"{file}[image=COLUMN,captions.en=COLUMN]"
        raise ValueError(f"{file}: no column is known by its name ({', '.join(kinds)}); {_usual()}; or as in {example}")
    columns.classes = {task: _classes(schema, name) for task, name in columns.labels.items()}
    return columns


def _languages(names: Iterable[str]) -> dict[str, str]:
    """Language -> column, of those whose names say one: caption_en, pt-BR; fil only where en or the like is there."""
    from datamodules.tokenizers.languages import SAME  # which imports torch

    matches = {name: match for name in names if name != "id" and (match := BY_LANGUAGE.fullmatch(name))}
    matches = {name: match for name, match in matches.items() if match[3] in SAME}
    short = any(not match[1] and len(match[3]) == 2 for match in matches.values())
    return {match[2]: name for name, match in matches.items() if match[1] or len(match[3]) == 2 or short}


def _accepted(role: str) -> set[str]:
    if role == "labels":
        return {"whole", "object"}
    return KINDS.get(role) or KINDS.get(f"{role.partition('.')[0]}.") or KINDS["file"]


def _shown(role: str) -> str:
    words = {"whole": "whole numbers", "object": "an object of them by language", "texts": "lists of texts"}
    words |= {"text": "text", "bytes": "bytes", "picture": "{bytes, path}", "features": "lists of floats"}
    return ", ".join(sorted(words.get(kind, f"{kind}s") for kind in _accepted(role)))


def _usual() -> str:
    return "; ".join(f"{role}: {', '.join(USUAL[role])}" for role in ("image", "captions", "query"))


def kind_of(kind: pyarrow.DataType) -> str:
    """What a column holds, in a word that `KINDS` knows."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        names = {kind.field(number).name for number in range(kind.num_fields)}
        return "picture" if "bytes" in names and names <= {"bytes", "path"} else "object"
    if types.is_map(kind):
        return "object"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind_of(kind.value_type)
        return {"float": "features", "features": "features", "text": "texts", "object": "texts"}.get(inner, "list")
    for name, found in {
        "text": types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind),
        "bytes": types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind),
        "whole": types.is_integer(kind) or types.is_boolean(kind),
        "float": types.is_floating(kind),
    }.items():
        if found:
            return name
    return "other"


def _classes(schema: pyarrow.Schema, column: str) -> list[str]:
    """The names of a column's classes, as `datamodules`' writers and Hugging Face's `datasets` leave them in a file."""
    try:
        facts = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        return list(map(str, facts["names"]))
    except (KeyError, TypeError, ValueError):
        return []
