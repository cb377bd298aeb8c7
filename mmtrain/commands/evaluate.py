"""`mmtrain evaluate`: a model over shards, once; then figures and a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from datamodules.files import try_writing
from mmtrain.commands.together import check_together
from mmtrain.commands.usage import Adapter, BatchSize, Device, File, Folder, Model, Shards, Trust, UsageError, Workers
from mmtrain.display.messages import say

if TYPE_CHECKING:
    from mmtrain.evaluation.protocols import Protocol


def evaluate(
    model: Model,
    *,
    data: Shards,
    out: Folder | None = None,
    languages: list[str] | None = None,
    protocol: Annotated[str, "NAME"] | None = None,
    images: Folder | None = None,
    captions: Literal["all", "first"] | None = None,
    similarity: Literal["cosine", "asymmetric", "late"] | None = None,
    recall_at: tuple[int, ...] | None = None,
    text_to_text: list[tuple[str, str]] | None = None,
    rerank: Annotated[int, "K"] | None = None,
    rerank_by: Literal["head", "late"] = "head",
    dims: Annotated[tuple[int, ...], "32,64,128"] | None = None,
    precision: Annotated[list[str], "float32,int8,binary"] | None = None,
    zero_shot: Annotated[str, "TASK"] | None = None,
    zero_shot_by: Literal["similarity", "captioner"] = "similarity",
    prompts: File | None = None,
    baselines: bool = False,
    probe: Annotated[str, "TASK"] | None = None,
    patches: bool = False,
    train: Shards | None = None,
    classes: File | None = None,
    sts: bool = False,
    templates: File | None = None,
    generate: bool = False,
    beams: Annotated[int, "N"] = 1,
    task: str | None = None,
    questions: File | None = None,
    text_baselines: Annotated[list[str], "bm25,hf:NAME"] | None = None,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    device: Device | None = None,
    trust: Trust | None = None,
    adapter: Adapter | None = None,
) -> dict[str, Any]:
    """Measures MODEL on SHARDS; writes metrics.json and report.html, prints the tables, returns the metrics.

    The checkpoint is read once, the shards are surveyed once, and each picture is decoded and encoded once. A model of
    `mmtrain.RelationModule` is measured on the tasks it was trained for too, where the shards label them.

    Args:
        data: SHARDS: a folder, a tar, a brace pattern, or several joined with ::; or a manifest in JSON Lines.
        out: Gets metrics.json and report.html; default: report/ in the run folder.
        languages: Default: the languages of the run.
        protocol: A published test set: xm3600, xm3600/first, xtd10, multi30k, mscoco/1k, mscoco/5k, xflickrco, wit, or
            of questions: miracl_vision, visr_bench, jina_vdr, cvqa ...; --data may then be the data set's own files.
        images: With --protocol: where those files' pictures lie.
        captions: Captions of an image and language that count; default: all.
        similarity: Default: as the model was trained; "late" compares token rows, of a model that gives them.
        recall_at: Ranks to report; default: 1,5,10, or those of the protocol.
        text_to_text: Caption retrieval between languages.
        rerank: Sort the best K again, by --rerank_by.
        rerank_by: For --rerank: the model's matching head, or late interaction of its token rows, which also ranks
            everything, to say what the best K lose.
        dims: Recall of the first so many dimensions of the rows too, normalised again.
        precision: Recall of rows in so many bits a number too, float32, int8 and binary, at each of --dims.
        zero_shot: A task that the shards label, by similarity alone.
        zero_shot_by: For --zero_shot: "captioner" also asks how likely the model's decoder takes each prompt to be.
        prompts: For --zero_shot: JSON {class: "... {text} ..."}.
        baselines: Tabulate chance, similarity and a linear probe of the space beside the head.
        probe: A task that the shards label: logistic regression on the frozen rows of pictures.
        patches: For --probe: on the features of patches, which the samples' JSON labels by place: "places": {task:
            [[label, x, y], ...]}, x and y as shares of width and height.
        train: For --baselines and --probe: what they learn from; default: the training shards of the run's config.
        classes: Classify the pictures instead, by a JSON file of class names: {language: {label: name}}, or
            Babel-ImageNet's; writes zero_shot.json.
        sts: Correlate the similarity of sentences instead: --data names TSV files with the columns sentence1,
            sentence2, score; writes sts.json.
        templates: For --classes: JSON {language: ["a photo of a {}", ...]}.
        generate: Write captions with the model's decoder and compare them with those of the shards.
        beams: For --generate: captions kept at each token.
        task: For --classes: which of the samples' labels; default: the only one.
        questions: Measures questions to the samples too, which then need no captions: JSON Lines {"id", "text",
            "language", "images", "relevant": {id: grade}, "pool", "group", "choices", "answer"}. With --languages those
            in the languages.
        text_baselines: For --questions: the same by the text of the samples alone; bm25, sentence-transformers' models,
            MODELs of ours.

    Raises:
        ValueError: when the shards have none of the languages, or nothing in them can be read; a model without a
            matching head or token rows, a task that nobody labelled.
    """
    retrieval: dict[str, Any] = {"protocol": protocol, "captions": captions, "text_to_text": text_to_text}
    retrieval |= {"similarity": similarity, "recall_at": recall_at, "rerank": rerank, "dims": dims}
    retrieval |= {"precision": precision, "generate": generate, "baselines": baselines, "probe": probe}
    retrieval |= {"zero_shot": zero_shot, "questions": questions, "text_baselines": text_baselines}
    details: dict[str, Any] = {"images": images, "prompts": prompts, "patches": patches, "train": train, "task": task}
    details |= {"templates": templates, "beams": None if beams == 1 else beams}
    details |= {"rerank_by": None if rerank_by == "head" else rerank_by}
    check_together(retrieval, details, classes, sts)
    if zero_shot_by == "captioner" and (zero_shot is None or prompts is None):
        raise ValueError("--zero_shot_by: captioner judges the answers of --prompts FILE for --zero_shot TASK; both")
    folder = _folder(model, out)
    try_writing(folder, "--out")
    if classes is not None or sts:
        if classes is None:
            from mmtrain.evaluation.measuring.sts import evaluate_sts

            return evaluate_sts(model, data, folder, languages=languages, device=device, trust=trust, adapter=adapter)
        from mmtrain.evaluation.measuring.classes import evaluate_classes

        options: dict[str, Any] = {"task": task, "languages": languages, "batch_size": batch_size, "workers": workers}
        return evaluate_classes(
            model, data, folder, classes, templates=templates, device=device, trust=trust, adapter=adapter, **options
        )
    published = _protocol(protocol, captions)
    if published is not None and rerank is not None:
        raise ValueError(f"--rerank: {rerank} sorts the answers of the whole collection; it goes without --protocol")
    if rerank is not None and rerank < 2:
        raise ValueError(f"--rerank: got {rerank}, expected at least 2")
    for name, value in {"rerank": rerank, "dims": dims, "precision": precision}.items():
        if similarity == "late" and value:
            raise ValueError(f"--{name}: is about single rows; without --similarity late")
    if text_baselines is not None and questions is None and (published is None or published.questions is None):
        raise ValueError(f"--text_baselines: {', '.join(text_baselines)} answer questions; they need --questions FILE")

    from mmtrain.embedding.one_pass import Collector, Features, Thumbnails, embed
    from mmtrain.embedding.predictions import PredictedSplit
    from mmtrain.embedding.processes import default_device
    from mmtrain.embedding.splits import open_split
    from mmtrain.evaluation.measuring.captions import Answers, WrittenCaptions
    from mmtrain.evaluation.measuring.items import Items
    from mmtrain.evaluation.measuring.late import ManyRows, rerank_by_late
    from mmtrain.evaluation.measuring.probe import Probe
    from mmtrain.evaluation.measuring.questions import asked_in, measure_questions
    from mmtrain.evaluation.measuring.relation import relation_results
    from mmtrain.evaluation.measuring.relation_baselines import baseline_tables, open_training_posts
    from mmtrain.evaluation.measuring.relation_zero_shot import class_templates, read_prompts, zero_shot_results
    from mmtrain.evaluation.measuring.reranking import checked_head, reads_tokens, rerank_retrieval
    from mmtrain.evaluation.measuring.retrieval import measure_split, report_values, skipped, without_captions
    from mmtrain.evaluation.measuring.shorter import check_shorter, measure_shorter
    from mmtrain.evaluation.measuring.text_baselines import text_baselines as measure_text_baselines
    from mmtrain.evaluation.report.questions import shown_questions
    from mmtrain.evaluation.report.tables import print_metrics
    from mmtrain.fusion import RelationHead
    from mmtrain.models.loading import load
    from mmtrain.models.network import NO_HEAD

    data = _shards(data, published, images)
    asking = None
    if published is not None and (brought := published.question_file(data)) is not None:
        if questions is not None:
            raise ValueError(f"--questions: {questions} beside --protocol {published}, which asks its own; one of them")
        questions, asking, published = str(brought), published, None
    asked = None if questions is None else asked_in(questions, languages)
    encoder = load(model, device=device or default_device(), trust=trust, adapter=adapter)
    if rerank is not None and rerank_by == "head":
        checked_head(encoder)
    if "late" in (similarity, rerank_by) and encoder.model.multi_dimension is None:
        raise ValueError(NO_HEAD)
    many = ManyRows() if "late" in (similarity, rerank_by) else None
    shorter = (dims or (), precision or ())
    check_shorter(encoder, *shorter, similarity or encoder.metric)
    class_prompts = None if prompts is None else read_prompts(prompts)
    names = dict(encoder.classes)
    if class_prompts is not None and zero_shot not in names:
        names[str(zero_shot)] = sorted(class_prompts, key=lambda name: (len(name), name))
    if baselines:
        train, posts = open_training_posts(encoder, model, train, batch_size, workers, names)
        names |= posts.label_names
    linear = None
    if probe is not None:
        linear = Probe(encoder, model, train, probe, patches, batch_size, workers, names)
        names |= linear.learnt.label_names
    labelled = bool(encoder.classes) or zero_shot is not None or baselines or (probe is not None and not patches)
    read: dict[str, Any] = {"labelled": labelled, "label_names": names, "captioned": asked is None}
    shards = open_split(encoder, data, languages, batch_size, workers, **read)
    of_captions: dict[str, Any] = {"text_to_text": text_to_text, "rerank": rerank, "dims": dims, "precision": precision}
    of_captions |= {"zero_shot": zero_shot, "baselines": baselines, "generate": generate}
    _check_captions(of_captions, data, bool(shards.languages))

    thumbnails, features = Thumbnails(), Features()
    predicted = PredictedSplit(encoder.head) if isinstance(encoder.head, RelationHead) else None
    collected = rerank is not None and rerank_by == "head" and reads_tokens(encoder.head)
    answers_to = [] if zero_shot is None else class_templates(shards, zero_shot, class_prompts or {})
    answers = Answers(encoder, shards, answers_to) if zero_shot_by == "captioner" else None
    captioned = WrittenCaptions(encoder, shards, beams) if generate else None
    probed = None if linear is None else linear.collector(shards, data)
    items = None if asked is None else Items(shards, many if similarity == "late" else None, encoder)
    of_tokens: list[Collector | None] = [predicted, features if collected else None, answers, captioned]
    collectors: list[Collector] = [each for each in (thumbnails, *of_tokens, probed, items, many) if each is not None]
    tokens = patches or any(each is not None for each in of_tokens)
    split = embed(encoder, shards, collectors, tokens=tokens, multi=many is not None)
    _check_captions(of_captions, data, len(split.texts) > 0)
    token_rows = None if many is None or not len(split.texts) else many.of(split)
    ranked = token_rows if similarity == "late" else None

    ranking: dict[str, Any] = {"similarity": similarity or encoder.metric, "text_to_text": text_to_text or ()}
    ranking |= {"recall_at": recall_at} if recall_at else {}
    ranking["captions"] = captions or "all"
    ranks, metrics = None, without_captions(split, ranking.get("recall_at"))
    if len(split.texts):
        ranks, metrics = measure_split(encoder, shards, split, published, rows=ranked, **ranking)
    answered = None
    if asked is not None and items is not None:
        items.add_texts()
        answered = measure_questions(encoder, items, asked, ranking["similarity"])
        metrics["questions"], metrics["protocol"]["questions"] = answered.figures, answered.facts | {"file": questions}
        if asking is not None:
            metrics["protocol"] |= asking.statement(len(items.ids), sorted(set(answered.languages)))
        if text_baselines:
            where: dict[str, Any] = {"device": str(encoder.device), "trust": trust}
            metrics["text_baselines"] = measure_text_baselines(text_baselines, answered, items, **where)
    if any(shorter):
        ranking["text_to_text"] = ()
        metrics["shorter"] = measure_shorter(encoder, shards, split, metrics, published, *shorter, **ranking)
    relation = None if predicted is None else relation_results(predicted, split, shards, thumbnails)
    relations = {}
    if relation is not None:
        metrics |= relation.metrics
        relations = dict(relation.systems)
    if zero_shot is not None:
        judged = None if answers is None else answers.probabilities()
        metrics["zero_shot"] = zero_shot_results(encoder, shards, split, zero_shot, answers_to, judged)
        tables = {f"zero-shot by {name}": each for name, each in metrics["zero_shot"].items()}
        relations[zero_shot] = relations.get(zero_shot, {}) | tables
    if baselines:
        metrics["baselines"] = baseline_tables(posts, embed(encoder, posts), shards, split, encoder.classes)
        for task, systems in metrics["baselines"].items():
            systems |= {name: each for name, each in relations.get(task, {}).items() if name == "fine-tuned"}
        metrics["protocol"]["baselines"] = {"train": train, "languages": posts.languages, "skipped": skipped(posts)}
    if linear is not None and probed is not None:
        metrics["probe"] = {probe: linear.figures(probed, data)}
        metrics["protocol"]["probe"] = {"train": linear.train, "skipped": skipped(linear.learnt)}
    if rerank is not None and ranks is not None and token_rows is not None:
        metrics["rerank"] = rerank_by_late(ranks, split, token_rows, rerank, encoder.device)
    elif rerank is not None and ranks is not None:
        metrics["rerank"] = rerank_retrieval(encoder, ranks, split, features, rerank)
    if captioned is not None:
        metrics["captions"] = captioned.metrics(split)
    metrics["protocol"] |= {"model": str(model), "data": data, "skipped": skipped(shards)}
    beside = metrics.get("baselines", {})
    shown = {task: relations.get(task, {}) | beside.get(task, {}) for task in relations | beside}
    values: dict[str, Any] = {} if ranks is None else report_values(ranks, split, thumbnails, ranked)
    values |= {"relations": shown, "relation": relation}
    if answered is not None and items is not None:
        values["questions"] = shown_questions(answered, items, metrics)
    _write(Path(model), folder, metrics, asking or published, values)
    print_metrics(metrics, relations)
    say(f"report: {folder / 'report.html'}")
    return metrics


def _check_captions(options: dict[str, Any], data: str, there: bool) -> None:
    for name, value in options.items():
        if value and not there:
            raise ValueError(f"--{name}: {data} has no captions that it could be about; without it")


def _folder(model: str, out: str | None) -> Path:
    if out is None:
        from mmtrain.models.run_folder import folder_of

        run = folder_of(Path(model))
        if run is None:
            raise UsageError(f"--out: needed, for {model} is no run folder with a checkpoint")
        return run / "report"
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out: {out} is a file; a folder for metrics.json and report.html")
    return Path(out)


def _protocol(name: str | None, captions: str | None) -> "Protocol | None":
    if name is None:
        return None
    from mmtrain.evaluation.protocols import named_protocol

    protocol = named_protocol(name)
    if captions not in (None, protocol.captions):
        raise ValueError(f"--captions: {protocol} counts {protocol.captions} captions, not {captions}; another variant")
    return protocol


def _shards(data: str, protocol: "Protocol | None", images: str | None) -> str:
    """SHARDS as they are; what is no shards is packed into the cache once."""
    from datamodules.packing.as_shards import as_shards

    if protocol is not None:
        return protocol.shards(data, images)
    if Path(data).suffix in (".csv", ".tsv"):
        raise ValueError(f"--data: {data} is a table, not shards; mmtrain pack csv makes shards of it")
    shards, left_out = as_shards(data, "--data", None)
    for cause, rows in left_out.items():
        say(f"--data: {data}: {rows:,} rows left out ({cause}), listed in {shards}/shards.json")
    return shards


def _write(
    model: Path, folder: Path, metrics: dict[str, Any], protocol: "Protocol | None", values: dict[str, Any]
) -> None:
    """metrics.json, report.html, and both in the run's wandb where it has one."""
    from datetime import date

    from mmtrain.evaluation.report.figures import report_figures
    from mmtrain.evaluation.report.report import write_metrics, write_report
    from mmtrain.models.run_folder import folder_of
    from mmtrain.training.monitoring.loggers import log_report

    run = folder_of(model) or model
    write_metrics(folder / "metrics.json", metrics)
    facts = {"model": str(model), "data": metrics["protocol"]["data"], "date": date.today().isoformat()}
    curves, count = run / "metrics.csv", metrics["protocol"]["languages"]
    what = "Relations and retrieval" if values["relations"] else "Retrieval"
    if not count:
        what, count = "Questions", len(metrics["questions"]) - 2  # without "mean" and "groups"
    write_report(
        folder / "report.html",
        metrics,
        title=f"{what} in {count} language{'s' * (count != 1)}",
        run=facts | ({} if protocol is None else {"protocol": str(protocol)}),
        curves=curves if curves.is_file() else None,
        **values,
    )
    log_report(run, metrics, report_figures(metrics))
