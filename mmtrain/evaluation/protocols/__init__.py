"""Published test sets by name: how each is read and ranked, and whose figures are comparable.

| --protocol | images | languages | what is particular | same protocol | not comparable |
|---|---|---|---|---|---|
| xm3600/all | 3,600 | 36 | every caption | big_vision, MetaCLIP 2, Babel-ImageNet | CLIP_benchmark, Jina |
| xm3600/first | 3,600 | 36 | first caption | CLIP_benchmark, open_clip's tables, Jina | the above: 7 points R@1 |
| xtd10/all | 1,000 | 11 | one caption | XTD10, M-CLIP (R@10), Babel-ImageNet | models trained on COCO train |
| xtd10/val2014 | 200 | 11 | without COCO's training images | nobody: smaller pool, no leak | figures on all 1,000 |
| multi30k/2016 | 1,000 | en de fr cs | one caption, translations | | figures with five captions |
| multi30k/2016_five | 1,000 | en de | five independent captions | Gella et al. 2017 | figures with one caption |
| multi30k/2017, 2017_mscoco, 2018 | 1,000, 461, 1,071 | | one caption | | other years |
| mscoco/1k | 5,000 | | mean over five folds of 1,000 | UC2, M3P, CCLM, CCRK (en) | 5K figures: larger pool |
| mscoco/5k | 5,000 | | one pool | open_clip, CLIP_benchmark | 1K figures |
| xflickrco/test | 2,000 | 8 | Flickr30k and COCO, one caption | IGLUE, CCRK | means there leave out English |
| wit/iglue | 6,192 | 11 | each language among its own images | IGLUE, CCRK | pools of other sizes |
| wit/test | 57,000 | 108 | reference descriptions, R@1, 3, 5 | Srinivasan et al. | wit/iglue: smaller pools |
| miracl_vision/all | 338,734 | 18 | questions to pages of their language | its paper: nDCG@10 | MTEB's nDCG@5 |
| visr_bench/all | | 16 | questions to the pages of a document | its paper, visual models | its text models, BM25 |
| jina_vdr/test | | 22 | questions to pages, many data sets | nDCG@5 of its paper, MTEB | nDCG@10 |
| vidore/test | | | the same tables | v1, v2 nDCG@5, v3 nDCG@10 | the other depth |
| mieb/retrieval | | | the same tables, pictures ask, texts answer | MTEB's nDCG@10 | two inputs: plain sum there |
| mieb/compositionality | | en | one of two to five captions of a picture | MTEB's text_acc | its image_acc, accuracy |
| cvqa/local, cvqa/en | | 31, en | one of four answers to a picture | MetaCLIP 2 | generative models |
| merit/test | 51,177 | 5 | pictures and words ask for a product | its paper, R@1, MRR@10 | titles of candidates |

Each protocol's `comparable` names the figures and says whether they were seen at their source, reported by others, or
recalled and still to be checked. R@K is any-positive throughout; MTEB's main score for these sets is nDCG@10 instead.
The last ones ask questions (`mmtrain evaluate --questions`) in place of captions.
"""

from mmtrain.evaluation.protocols import (
    compositionality,
    cvqa,
    iglue,
    jina_vdr,
    merit,
    miracl_vision,
    mscoco,
    multi30k,
    visr_bench,
    wit,
    xm3600,
    xtd10,
)
from mmtrain.evaluation.protocols.protocol import Protocol, Reference, Split

CAPTIONS = (xm3600, xtd10, multi30k, mscoco, iglue, wit)
ASKED = (miracl_vision, visr_bench, jina_vdr, compositionality, cvqa, merit)
PROTOCOLS: dict[str, Protocol] = {
    str(protocol): protocol for module in (*CAPTIONS, *ASKED) for protocol in module.PROTOCOLS
}

__all__ = ["PROTOCOLS", "Protocol", "Reference", "Split", "named_protocol"]


def named_protocol(name: str) -> Protocol:
    """The protocol called NAME/VARIANT; NAME alone is its first variant. Raises ValueError for any other name."""
    first_variant = next((protocol for protocol in PROTOCOLS.values() if protocol.name == name), None)
    protocol = PROTOCOLS.get(name, first_variant)
    if protocol is None:
        raise ValueError(f"--protocol: {name!r} is unknown; one of {', '.join(PROTOCOLS)}")
    return protocol
