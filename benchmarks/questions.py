"""How long do exact figures of graded questions take, and how much memory, and are they trec_eval's?

    python -m benchmarks.questions                                  # 5,000 questions to 100,000 pages, D = 256
    python -m benchmarks.questions --pages 20000 --pool 100         # each question among 100 pages of its own

Pages are random unit rows; a question lies around its best page, and four others are worth less. The figures, intervals
included, are taken in a process of its own; then pytrec_eval gets the best 100 pages of some questions. Memory is the
peak above the embeddings.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from mmtrain.evaluation.metrics.questions import Values, question_figures
from mmtrain.evaluation.questions import Question
from mmtrain.evaluation.ranking.asked import Asked
from mmtrain.evaluation.ranking.graded import EmbeddingScores

CHECKED = 200  # questions that pytrec_eval judges too
BLOCK = 4096


def collection(
    pages: int, questions: int, width: int, pool: int | None
) -> tuple[np.ndarray, np.ndarray, list[Question]]:
    """Rows of pages [N, D] and of questions [Q, D], float32, and the questions."""
    random = np.random.default_rng(0)
    rows = np.empty((pages, width), np.float32)
    for start in range(0, pages, BLOCK):
        rows[start : start + BLOCK] = random.standard_normal((min(BLOCK, pages - start), width), np.float32)
    right = np.array([random.choice(pages, 5, replace=False) for _ in range(questions)])
    queries = rows[right[:, 0]] + 0.5 * rows[right[:, 1]] + 3.5 * random.standard_normal((questions, width), np.float32)
    asked = []
    for number, items in enumerate(right.tolist()):
        among = None if pool is None else [f"p{item}" for item in {*items, *random.integers(0, pages, pool).tolist()}]
        grades = {f"p{item}": float(max(1, 3 - place)) for place, item in enumerate(items)}
        language = ("en", "lv", "sw", "zh")[number % 4]
        asked.append(Question(f"q{number}", "?", language, grades, pool=among, group=("table", "text")[number % 2]))
    return rows, queries, asked


def measured(
    threads: int, pages: int, questions: int, width: int, pool: int | None
) -> tuple[tuple[float, float], float, Values, dict]:
    """Seconds of the clock and of processors, megabytes above the embeddings, figures of each question, the table."""
    torch.set_num_threads(threads)
    rows, queries, asked = collection(pages, questions, width, pool)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, (time.perf_counter(), time.process_time())
    of_pages = Asked.of(asked, [f"p{page}" for page in range(pages)], {})
    values = of_pages.values(of_pages.ranks(EmbeddingScores(torch.from_numpy(rows), torch.from_numpy(queries))))
    table = question_figures(values, [each.language for each in asked], [each.group for each in asked])
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, values, table


def trec_eval(rows: np.ndarray, queries: np.ndarray, asked: list[Question]) -> dict[str, np.ndarray]:
    """The same figures by pytrec_eval from the best 100 pages of each question."""
    import pytrec_eval

    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    run = {}
    for question, query in zip(asked, queries, strict=True):
        scores = units @ (query / np.linalg.norm(query))
        if isinstance(question.pool, list):
            among = np.zeros(len(rows), bool)
            among[[int(page[1:]) for page in question.pool]] = True
            scores = np.where(among, scores, -2)
        best = np.argsort(-scores)[:100]
        run[question.id] = {f"p{page}": float(scores[page]) for page in best}
    grades = {each.id: {page: int(grade) for page, grade in each.relevant.items()} for each in asked}
    found = pytrec_eval.RelevanceEvaluator(grades, {"ndcg_cut_5,10", "success_1,5,10"}).evaluate(run)
    names = {f"nDCG@{k}": f"ndcg_cut_{k}" for k in (5, 10)} | {f"R@{k}": f"success_{k}" for k in (1, 5, 10)}
    return {ours: np.array([found[each.id][name] for each in asked]) for ours, name in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=5_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--pool", type=int, help="pages that a question lists as its pool; default: all")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size = (options.pages, options.questions, options.width, options.pool)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        seconds, megabytes, values, table = process.submit(measured, options.threads, *size).result()
    print(f"{options.questions:,} questions, {options.pages:,} pages, {options.threads} threads:", end=" ")
    print(f"{seconds[0]:.1f} s, {seconds[1]:.1f} s of processors, {megabytes:.0f} MB above the embeddings")
    print(", ".join(f"{name} {value:.2f}" for name, value in table["mean"].items() if "ci95" not in name))
    rows, queries, asked = collection(*size)
    theirs = trec_eval(rows, queries[:CHECKED], asked[:CHECKED])
    furthest = max(np.abs(values[name][:CHECKED] - each).max() for name, each in theirs.items())
    print(f"furthest from pytrec_eval in {CHECKED} questions: {furthest:.1e}")


if __name__ == "__main__":
    main()
