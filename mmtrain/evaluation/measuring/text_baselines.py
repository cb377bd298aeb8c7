"""`mmtrain evaluate --questions --text_baselines`: the same questions by the text of pages alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmtrain.display.messages import first_line
from mmtrain.embedding.rows import Text, text_rows
from mmtrain.evaluation.measuring.items import Items, page_text
from mmtrain.evaluation.measuring.questions import QuestionResults
from mmtrain.evaluation.metrics.questions import paired_questions, question_figures
from mmtrain.evaluation.ranking.bm25 import Bm25Scores, words
from mmtrain.evaluation.ranking.graded import EmbeddingScores, Scores
from mmtrain.models.loading import load
from mmtrain.towers.transformers_weights import quiet

BM25 = "bm25"


def text_baselines(
    names: Sequence[str], results: QuestionResults, items: Items, *, device: str, trust: Sequence[str] | None = None
) -> dict[str, Any]:
    """By name {"questions": figures, "gain": what the model adds to them on the same questions, "items_without_text"}.

    A page without any text scores 0. Questions without text are left out.

    Args:
        names: "bm25", sentence-transformers' models as hf:NAME-OR-FOLDER, and MODELs of ours.
        results: Of the model that looks at the pages.
        device: Where models run.
        trust: Modules whose classes a MODEL may name.

    Raises:
        ValueError: one line, for a name that cannot be loaded, and where no item has text.
    """
    pages = [page_text(sample) for sample in items.samples()]
    if not any(text for _, text in pages):
        raise ValueError('--text_baselines: no item has text; "text" or captions in the JSON of samples')
    asked, questions = results.asked, results.asked.questions
    answering = np.array([bool(question.words.strip()) for question in questions])
    texts = [(question.language, question.words) for question in questions]
    groups = [question.group for question in questions]
    tables: dict[str, Any] = {}
    for name in names:
        values = asked.values(asked.ranks(text_scores(name, pages, texts, device, trust), answering))
        if np.isnan(values["R@1"]).all():
            raise ValueError("--text_baselines: no question with text has an answer; leave them out")
        tables[name] = {
            "questions": question_figures(values, results.languages, groups),
            "gain": paired_questions(values, results.values, results.languages),
            "items_without_text": sum(not text for _, text in pages),
        }
    return tables


def text_scores(
    name: str, pages: Sequence[Text], texts: Sequence[Text], device: str, trust: Sequence[str] | None = None
) -> Scores:
    """The scores of texts [Q], which ask, with pages [N], by a baseline of this name."""
    queries: Any
    passages: Any
    if name == BM25:
        return Bm25Scores(*([words(text, language) for language, text in some] for some in (pages, texts)))
    if name.startswith("hf:"):
        queries, passages = _sentence_rows(name, pages, texts, device)
    else:
        encoder = load(name, device=device, text_only=True, trust=trust)
        with torch.inference_mode():
            queries, passages = text_rows(encoder, texts, "query"), text_rows(encoder, pages, "passage")
    passages[[not text for _, text in pages]] = 0
    return EmbeddingScores(torch.from_numpy(passages), torch.from_numpy(queries), device=device)


def _sentence_rows(
    name: str, pages: Sequence[Text], texts: Sequence[Text], device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of texts that ask and of pages, each with the model's own prompt."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"--text_baselines: {name} needs sentence-transformers; pip install 'mmtrain[export]'"
        ) from None
    try:
        with quiet():
            model = SentenceTransformer(name.removeprefix("hf:"), device=device, trust_remote_code=False)
    except Exception as error:  # the library raises whatever a file makes it stumble over
        raise ValueError(f"--text_baselines: {name} cannot be loaded ({first_line(error)[:300]})") from None
    encoded = [
        encode([text for _, text in some], show_progress_bar=False, convert_to_numpy=True)
        for encode, some in ((model.encode_query, texts), (model.encode_document, pages))
    ]
    return encoded[0].astype(np.float32), encoded[1].astype(np.float32)
