"""Which columns of a table are a sample's picture, captions and labels: by their usual names, or as a user names them.

A user names them behind SHARDS: photos/[image=photo,captions.en=title,labels.mood=feeling]. ROLE=COLUMN, where a role
is `image`, `id`, `image_id`, `captions`, `captions.LANGUAGE`, `labels.TASK`, `language`, `query`, `positive`,
`negatives`, `score`, `scores`, or a name of a to z and _ for a further picture or features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datamodules.shards.samples import PAIR_TEXTS

if TYPE_CHECKING:
    import pyarrow

# role -> the names of columns that have it where nothing else is said, likeliest first
USUAL = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "image_path", "npy"),
    "captions": ("captions", "caption", "texts", "text", "sentences", "sentence", "raw", "txt", "translation"),
    "id": ("id", "key", "__key__", "image_id"),
    "image_id": ("image_id",),
    "labels": ("labels", "label"),
    "language": ("language", "lang", "locale"),
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
IDS = ("id", "image_id")
LANGUAGE, TEXT = USUAL["language"], ("text", "caption", "translation", "raw", "sentence")
NAMED = re.compile(r"captions\.[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*|labels\..+|[a-z_]+")


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what.

    Attributes:
        roles: Role -> columns, several of negatives alone.
        features: Those columns of pictures and further files that hold numbers.
        classes: Column of labels -> the names of its classes, [] where the table does not say them.
        others: Columns that travel in the record under their own names.
        unread: All else.
    """

    roles: dict[str, list[str]]
    features: frozenset[str]
    classes: dict[str, list[str]]
    others: list[str]
    unread: list[str]

    @property
    def files(self) -> dict[str, str]:
        """The columns of pictures and features, by "image" or the name of a further one."""
        return {role: names[0] for role, names in self.roles.items() if _of_file(role)}

    @property
    def spoken(self) -> list[str]:
        """The columns that say, beside the files, what a sample holds: texts, scores, labels."""
        return self._columns(lambda role: not _of_file(role) and role not in IDS)

    @property
    def written(self) -> list[str]:
        """The columns that make a record."""
        return [*self._columns(lambda role: not _of_file(role)), *self.others]

    def _columns(self, chosen: Callable[[str], bool]) -> list[str]:
        return list(dict.fromkeys(name for role, names in self.roles.items() if chosen(role) for name in names))

    def described(self) -> str:
        """For a line: which column is what, and which are not read."""
        read = ", ".join(f"{role}={'+'.join(names)}" for role, names in self.roles.items())
        return read + (f"; not read: {', '.join(self.unread)}" if self.unread else "")

    def record(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The record of a sample, as its JSON would be. Only roles whose columns are in the row are in it."""
        record: dict[str, Any] = {name: row[name] for name in self.others if name in row}
        captions: dict[str, Any] = {}
        labels: dict[str, Any] = {}
        for role, names in self.roles.items():
            values = [row[name] for name in names if row.get(name) is not None]
            kind, _, name = role.partition(".")
            if not values or _of_file(role):
                continue
            value = values[0] if len(names) == 1 else [text for each in values for text in _listed(each)]
            if kind in ("captions", *PAIR_TEXTS):
                value = texts_in(value)
            if kind == "captions" and (name or isinstance(value, dict)):
                captions |= {name: value} if name else value
            elif kind == "labels":
                labels |= {name: self._label(names[0], value)} if name else value
            else:
                record["caption" if kind == "captions" else role] = str(value) if role in IDS else value
        if captions == {} and record.get("caption") and record.get("language"):
            captions = {record["language"]: record.pop("caption")}
        return record | ({"captions": captions} if captions else {}) | ({"labels": labels} if labels else {})

    def _label(self, column: str, value: Any) -> Any:
        """A class in words where they are known; -1 is none."""
        names, value = self.classes[column], int(value) if isinstance(value, bool) else value
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
    roles = _usual(kinds, named) | {role: [name] for role, name in named.items()}
    read = {name for names in roles.values() for name in names}
    if all(role in IDS for role in roles):
        known = "; ".join(f"{role}: {', '.join(USUAL[role])}" for role in ("image", "captions", "query"))
        example = f"{file}[image=COLUMN,captions.en=COLUMN]"
        raise ValueError(f"{file}: no column is known by its name ({', '.join(kinds)}); {known}; or as in {example}")
    travel = [  # under the name of a role a record says something else, and bytes are no JSON
        each.name
        for each in schema
        if each.name not in read | {"caption", *USUAL}
        and kinds[each.name] not in ("bytes", "picture", "features")
        and "binary" not in str(each.type)
    ]
    return Columns(
        roles,
        frozenset(name for role, (name, *_) in roles.items() if _of_file(role) and kinds[name] == "features"),
        {names[0]: _classes(schema, names[0]) for role, names in roles.items() if role.startswith("labels.")},
        travel,
        [name for name in kinds if name not in read and name not in travel],
    )


def _usual(kinds: Mapping[str, str], named: Mapping[str, str]) -> dict[str, list[str]]:
    """The columns known by their names, of roles that nobody named."""
    taken, kinds_named = set(named.values()), {role.partition(".")[0] for role in named}
    roles: dict[str, list[str]] = {}
    for role, names in USUAL.items():
        fits = [name for name in names if kinds.get(name) in _accepted(role) and (role in IDS or name not in taken)]
        if fits and role not in kinds_named:
            roles[role] = fits[:1]
            taken |= set() if role in IDS else {fits[0]}
    if "captions" not in kinds_named:
        texts = [name for name, kind in kinds.items() if kind in _accepted("captions.") and name not in taken]
        if languages := _languages(texts):
            roles.pop("captions", None)  # it travels in the record
            roles |= {f"captions.{language}": [name] for language, name in languages.items()}
    if (label := roles.get("labels")) and kinds[label[0]] not in ("object", "struct"):
        roles[f"labels.{label[0]}"] = roles.pop("labels")
    if "negatives" not in named and (more := [name for name in kinds if re.fullmatch(r"negative_?\d+", name)]):
        roles["negatives"] = [*roles.get("negatives", ()), *more]
    return roles


def _of_file(role: str) -> bool:
    return role == "image" or ("." not in role and role not in USUAL)


def _languages(names: Iterable[str]) -> dict[str, str]:
    """Language -> column, of those whose names say one: caption_en, pt-BR; fil only where en or the like is there."""
    matches = _by_code(names)
    short = any(not match[1] and len(match[3]) == 2 for match in matches.values())
    return {match[2]: name for name, match in matches.items() if match[1] or len(match[3]) == 2 or short}


def _by_code(names: Iterable[str]) -> dict[str, re.Match[str]]:
    """Those of the names that say a language; id, which is Indonesian too, does not."""
    from datamodules.tokenizers.languages import SAME  # which imports torch

    matches = {name: match for name in names if name != "id" and (match := BY_LANGUAGE.fullmatch(name))}
    return {name: match for name, match in matches.items() if match[3] in SAME}


def _accepted(role: str) -> set[str]:
    if role == "labels":
        return {"whole", "object", "struct"}
    return KINDS.get(role) or KINDS.get(f"{role.partition('.')[0]}.") or KINDS["file"]


def _shown(role: str) -> str:
    words = {"whole": "whole numbers", "object": "an object of them by language", "texts": "lists of texts"}
    words |= {"text": "text", "bytes": "bytes", "picture": "{bytes, path}", "features": "lists of floats"}
    return ", ".join(sorted({words.get(kind, f"{kind}s") for kind in _accepted(role) - {"struct"}}))


def kind_of(kind: pyarrow.DataType) -> str:
    """What a column holds, in a word that `KINDS` knows."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        names = {kind.field(number).name for number in range(kind.num_fields)}
        if "bytes" in names and names <= {"bytes", "path"}:
            return "picture"
        return "object" if names & {*TEXT} or _by_code(names) else "struct"  # what no language names is no caption
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
