"""Figures as tables for a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmtrain.display.messages import say
from mmtrain.display.tables import print_table
from mmtrain.evaluation.metrics.bootstrap import DRAWS
from mmtrain.evaluation.metrics.questions import figure_names
from mmtrain.evaluation.ranking.protocol_statement import unequal_pools
from mmtrain.evaluation.ranking.ranks import DIRECTIONS, Direction


def print_metrics(metrics: Mapping[str, Any], relations: Mapping[str, Any]) -> None:
    """All that a metrics.json has; relations are its tables by task and system."""
    recall_at = metrics["protocol"]["recall_at"]
    if DIRECTIONS[0] in metrics:
        print_retrieval(metrics, recall_at)
    if "questions" in metrics:
        print_questions(metrics)
    if "shorter" in metrics:
        print_shorter(metrics["shorter"], recall_at)
    if "name" in metrics["protocol"]:
        print_protocol(metrics["protocol"])
    for task, systems in relations.items():
        print_relation(task, systems)
    for task, systems in metrics.get("baselines", {}).items():
        print_baselines(task, systems)
    if "captions" in metrics:
        print_captions(metrics["captions"])
    if "probe" in metrics:
        print_probe(metrics["probe"])
    if "rerank" in metrics:
        print_reranked(metrics["rerank"], recall_at)


def print_retrieval(metrics: Mapping[str, Any], recall_at: Sequence[int]) -> None:
    """Recall in both directions by language."""
    protocol = metrics["protocol"]
    title = f"{protocol['images']:,} images, {protocol['texts']:,} captions, recall in percent"
    _print_directions(title, metrics, {f"R@{k}": f"R@{k}" for k in recall_at})
    say(f"mean recall {metrics['mean_recall']:.2f} %")
    for line in unequal_pools(protocol):
        say(line)


def print_shorter(shorter: Sequence[Mapping[str, Any]], recall_at: Sequence[int]) -> None:
    """Recall by width and precision of the rows."""
    cells = [(direction, f"R@{k}") for direction in DIRECTIONS for k in recall_at]
    columns = [f"{direction.replace('_', ' ')}\n{name}" for direction, name in cells]
    rows = [
        [f"{each['width']}", each["precision"], f"{each['bytes']:,}"]
        + [f"{each[direction]['mean'][name]:.1f}" for direction, name in cells]
        + [f"{each['mean_recall']:.1f}"]
        for each in shorter
    ]
    title = "shorter rows, recall in percent, mean of the languages"
    print_table(title, ("width", "precision", "bytes a row", *columns, "mean recall"), rows, left=("precision",))


def print_protocol(protocol: Mapping[str, Any]) -> None:
    """The published protocol and the published figures to compare with."""
    what = f"{protocol['captions']} captions, {protocol['figures']}" if "figures" in protocol else "questions"
    say(f"protocol {protocol['name']}/{protocol['variant']}, {what}")
    absent = f", without {', '.join(protocol['languages_absent'])}" if protocol["languages_absent"] else ""
    here, expected = f"{protocol['images']:,} here{absent}", protocol["expected"]["images"]
    if expected is None:
        say(f"pictures: {here}; published figures compare where these are all of the data set")
    elif not protocol["complete"]:
        say(f"not the {expected:,} pictures of the test set: {here}; published figures do not compare")
    for reference in protocol["comparable"]:
        say(f"comparable ({reference['provenance']}): {reference['source']}: {reference['figures']}")


def print_relation(task: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """The figures of some systems by language."""
    for system, by_language in tables.items():
        rows = []
        for language, each in by_language.items():
            accuracy, f1, weighted = (f"{each[name]:.1f}" for name in ("accuracy", "macro_f1", "weighted_f1"))
            low, high = each["macro_f1_ci95"]
            ece = "–" if each["ece"] is None else f"{each['ece']:.1f}"
            rows.append([language, accuracy, f1, f"{low:.1f} to {high:.1f}", weighted, ece, f"{each['n']:,}"])
        columns = ("language", "accuracy", "macro F1", "95 %", "weighted F1", "ECE", "n")
        print_table(f"{task}, {system}, in percent", columns, rows)
    for language, each in next(iter(tables.values())).items():
        if language != "mean" and each["missing_classes"]:
            missing = ", ".join(each["missing_classes"])
            say(f"{language}: no label of {missing}; macro F1 is the mean over the classes that occur")


def print_baselines(task: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Macro F1 of systems by language, each with its interval."""
    languages = list(next(iter(tables.values())))
    rows = []
    for system, by_language in tables.items():
        bounds = {language: by_language[language]["macro_f1_ci95"] for language in languages}
        cells = [
            f"{by_language[name]['macro_f1']:.1f} ({low:.1f} to {high:.1f})" for name, (low, high) in bounds.items()
        ]
        rows.append([system, *cells])
    print_table(f"{task}, macro F1 in percent (95 %)", ("system", *next(iter(tables.values()))), rows)


def print_captions(tables: Mapping[str, Mapping[str, float]]) -> None:
    """Figures of written captions by language."""
    names = ("exact_match", "token_f1", "bleu", "chrf")
    rows = [[language, *(f"{each[name]:.1f}" for name in names)] for language, each in tables.items()]
    print_table("captions written, in percent", ("language", "exact match", "token F1", "BLEU", "chrF"), rows)


def print_probe(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """What a linear probe reads in frozen rows, by task."""
    rows = []
    for task, each in tables.items():
        low, high = each["accuracy_ci95"]
        counts = [f"{each[name]:,}" for name in ("classes", "n", "train")]
        rows.append([task, f"{each['accuracy']:.1f}", f"{low:.1f} to {high:.1f}", f"{each['majority']:.1f}", *counts])
    columns = ("task", "accuracy", "95 %", "most frequent", "classes", "n", "learnt from")
    print_table("linear probe, in percent", columns, rows)


def print_questions(metrics: Mapping[str, Any]) -> None:
    """Figures of questions by language and group, and the means of text baselines."""
    tables = dict(metrics["questions"])
    groups = {f"group {name}": each for name, each in tables.pop("groups").items()}
    systems = {name: each["questions"]["mean"] for name, each in metrics.get("text_baselines", {}).items()}
    names = figure_names(metrics["questions"])
    rows = []
    for name, each in (tables | groups | {f"mean, {name}": mean for name, mean in systems.items()}).items():
        cells = [f"{each[figure]:.1f}" if figure in each else "–" for figure in names]
        rows.append([name, *cells, f"{each['queries']:,.0f}"])
    facts = metrics["protocol"]["questions"]
    print_table(
        f"{facts['questions']:,} questions, {facts['items']:,} items, in percent", ("", *names, "queries"), rows
    )
    if facts["excluded"]:
        say(f"{facts['excluded']:,} questions have no answer among the items they look at and are left out")
    if facts["unknown_items"]:
        say(f"{facts['unknown_items']:,} ids that questions name are no item")
    for name, each in metrics.get("text_baselines", {}).items():
        for figure in ("nDCG@10", "R@1") if each["gain"] else ():
            gain = each["gain"]["mean"][figure]
            low, high = gain["ci95"]
            say(f"the model over {name}: {figure} {gain['difference']:+.1f} ({low:+.1f} to {high:+.1f})")


def print_reranked(results: Mapping[str, Any], recall_at: Sequence[int]) -> None:
    """Recall before and after, by language."""
    first = f"R@{recall_at[0]}"
    shown = {f"{first}_before": f"{first} before", first: f"{first} after"}
    judge = "the matching head"
    if results.get("by") == "late":
        judge = "late interaction"
        shown |= {f"{first}_exact": f"{first} of everything", f"{first}_lost": "lost"}
    _print_directions(f"the best {results['k']} sorted again by {judge}, recall in percent", results, shown)


def print_classes(metrics: Mapping[str, Any]) -> None:
    """The accuracies and counts of zero-shot classification by language."""
    common = metrics["common"]
    rows = []
    for language, each in metrics["accuracy"].items():
        counts = [f"{each[name]:,}" for name in ("classes", "without_images", "same_names", "images", "prompts")]
        rows.append([language, *counts, _with_interval(each), f"{each['accuracy@5']:.1f}"])
        if common:
            rows[-1].append(_with_interval(common[language]))
    columns = ["language", "classes", "without\na picture", "of a\nshared name", "images", "prompts", "@1 (95 %)", "@5"]
    if common:
        columns.append(f"{metrics['common_classes']} common classes\n@1 (95 %)")
        rows.append(["mean", *[""] * (len(columns) - 2), f"{common['mean']['accuracy@1']:.1f}"])
    print_table("zero-shot classification, accuracy in percent", columns, rows)
    if any(each["same_names"] for each in metrics["accuracy"].values()):
        say("a picture of a class that shares its name is right under either class: figures by index are lower")
    if not common:
        say(f"{metrics['common_classes']} classes are common to all languages: their accuracies do not compare")


def print_sts(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Correlations by file and language."""
    rows = [
        [name, f"{each['pearson']:.1f}", f"{each['spearman']:.1f}", f"{each['pairs']:,}"]
        for name, each in figures.items()
    ]
    print_table("similarity of sentences, correlation x 100", ("pairs of", "Pearson", "Spearman", "pairs"), rows)


def print_compared(result: Mapping[str, Any], direction: Direction, k: int) -> None:
    """Models side by side in one direction, with the gain of each over the first."""
    protocol = result["metrics"][0]["protocol"]
    title = f"{direction.replace('_', ' ')}, R@{k} in percent, {protocol['images']:,} images"
    if protocol.get("name"):
        title += f", protocol {protocol['name']}/{protocol['variant']}"
    columns = ["language", "A (95 %)"]
    for name in map(letter, range(1, len(result["models"]))):
        columns += [f"{name} (95 %)", f"{name} - A (95 %)", "p"]
    rows = []
    for language in (*result["languages"], "mean"):
        cells = [language]
        for number, metrics in enumerate(result["metrics"]):
            figures = metrics[direction][language]
            low, high = figures[f"R@{k}_ci95"]
            cells.append(f"{figures[f'R@{k}']:.1f} ({low:.1f} to {high:.1f})")
            if number:
                gain = result["against_first"][number - 1][direction][language]
                low, high = gain["ci95"]
                cells.append(f"{gain['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
                cells.append(shown_p(gain["p"]) + ("*" if gain["p"] < 0.05 else " "))
        rows.append(cells)
    print_table(title, columns, rows)


def print_correlations(result: Mapping[str, Any]) -> None:
    """Correlations of two figures over languages within each model, and over models within each language."""

    def row(name: str, each: Mapping[str, Any]) -> list[str]:
        cells = [name]
        for kind in ("pearson", "spearman"):
            r, interval = each[kind], each[f"{kind}_ci95"]
            between = "" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
            cells.append("–" if r is None else f"{r:+.2f}{between}")
        return [*cells, f"{each['n']:,}"]

    title, columns = f"{result['figure']} with {result['with']}", ("Pearson (95 %)", "Spearman (95 %)")
    rows = [row(model, each) for model, each in result["over_languages"].items()]
    print_table(f"{title}, over languages", ("model", *columns, "languages"), rows, left=("model",))
    rows = []
    for language, each in result["over_models"].items():
        sides = result["languages"].get(language, {}).values()
        rows.append(row(language, each) + [_shown_counts(side["counts"]) for side in sides] + [""] * (2 - len(sides)))
    print_table(f"{title}, over models", ("language", *columns, "models", "figure of", "with of"), rows)


def _shown_counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{count:,.0f} {name}" for name, count in counts.items())


def _print_directions(title: str, results: Mapping[str, Any], headings: Mapping[str, str]) -> None:
    """The metrics of `headings` in both directions by language."""
    cells = [(direction, name) for direction in DIRECTIONS for name in headings]
    columns = [f"{direction.replace('_', ' ')}\n{headings[name]}" for direction, name in cells]
    rows = [
        [language, *(f"{results[direction][language][name]:.1f}" for direction, name in cells)]
        for language in results[DIRECTIONS[0]]
    ]
    print_table(title, ("language", *columns), rows)


def shown_p(p: float) -> str:
    """A p of the paired bootstrap; the bound where it is the least that its draws can give."""
    least = 2 / (DRAWS + 1)
    return f"{p:.3f}" if p > least else f"< {math.ceil(1000 * least) / 1000:.3f}"


def letter(number: int) -> str:
    """A, B, C ... of the models compared."""
    return chr(ord("A") + number) if number < 26 else f"M{number + 1}"


def _with_interval(each: Mapping[str, Any]) -> str:
    low, high = each["accuracy@1_ci95"]
    return f"{each['accuracy@1']:.1f} ({low:.0f} to {high:.0f})"
