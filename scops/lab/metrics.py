"""How good are replies: exact match, containment, ANLS, BLEU, ROUGE-L, CIDEr-D.

Words are lower-cased runs of letters and digits (Chinese characters one by one), so values differ slightly from those
made with the Java tokenizer of the COCO caption tools; on the same words the formulas are theirs.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:'[^\W_]+)?"
)
ARTICLES = {"a", "an", "the"}
NGRAMS = 4
ROUGE_BETA = 1.2  # recall counts more than precision, as in the COCO caption tools
CIDER_SIGMA = 6.0

ANLS_LIMIT = 0.5  # what differs by so much of its length, or by more, is no reading

Words = Sequence[str]


def words_of(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'"))


def plain(text: str) -> list[str]:
    """Words without articles (unless there is nothing else): what answers are compared by."""
    words = words_of(text)
    return [word for word in words if word not in ARTICLES] or words


def exact(reply: str, answers: Sequence[str]) -> bool:
    """The reply is one of the answers, apart from case, punctuation and articles."""
    return any(plain(reply) == plain(answer) for answer in answers)


def contains(reply: str, answers: Sequence[str]) -> bool:
    """The words of one of the answers stand in the reply, whole and in order ("owl" is not in "bowl")."""
    return any(_within(plain(answer), plain(reply)) for answer in answers)


def _within(part: Words, whole: Words) -> bool:
    return bool(part) and any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def anls(reply: str, answers: Sequence[str]) -> float:
    """Normalised Levenshtein similarity (arXiv 1907.00490, section 5.1), of one question: how well written words were read.

    Of the answers the nearest counts, 0 where half of it or more is wrong. Case does not matter, nor do spaces around words.
    """
    if not answers:
        raise ValueError("metrics: a question without an answer to compare with")
    return max(_similar(_spaced(reply), _spaced(answer)) for answer in answers)


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _similar(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    if abs(len(a) - len(b)) >= ANLS_LIMIT * longest:
        return 0.0  # at least so many characters differ
    share = edits(a, b) / longest
    return 1 - share if share < ANLS_LIMIT else 0.0


def edits(a: str, b: str) -> int:
    """Characters to insert, remove or replace (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for x in a:
        diagonal, row[0] = row[0], row[0] + 1
        for at, y in enumerate(b, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (x != y))
    return row[-1]


def ngrams(words: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def bleu(replies: Sequence[str], references: Sequence[Sequence[str]], *, n: int = NGRAMS) -> float:
    """BLEU-n of the whole set (Papineni et al. 2002), references closest in length; 0 when some order never fits."""
    fits, made, length, wanted = [0] * n, [0] * n, 0, 0
    for reply, answers in zip(map(words_of, replies), _words(references), strict=True):
        length += len(reply)
        wanted += min((len(a) for a in answers), key=lambda size: (abs(size - len(reply)), size))
        for order in range(n):
            counts = ngrams(reply, order + 1)
            most = Counter()
            for answer in answers:
                most |= ngrams(answer, order + 1)
            fits[order] += (counts & most).total()
            made[order] += counts.total()
    if not all(fits):
        return 0.0
    brevity = min(0.0, 1 - wanted / length)
    return math.exp(brevity + sum(math.log(f / m) for f, m in zip(fits, made, strict=True)) / n)


def rouge_l(replies: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F of the longest common subsequence (Lin 2004): best precision and best recall over the references."""
    return _mean([_rouge_of(r, a) for r, a in zip(map(words_of, replies), _words(references), strict=True)])


def _rouge_of(reply: Words, answers: Sequence[Words]) -> float:
    common = [_common(reply, answer) for answer in answers]
    precision = max(c / max(1, len(reply)) for c in common)
    recall = max(c / max(1, len(a)) for c, a in zip(common, answers, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _common(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for at, y in enumerate(b, 1):
            diagonal, row[at] = row[at], diagonal + 1 if x == y else max(row[at], row[at - 1])
    return row[-1]


def cider(replies: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D (arXiv 1411.5726), document frequencies from these very references; 10 is the best, one row gives 0."""
    answers = _words(references)
    seen: Counter[tuple[str, ...]] = Counter()
    for row in answers:
        seen.update({gram for answer in row for n in range(NGRAMS) for gram in ngrams(answer, n + 1)})
    rows = math.log(max(1, len(answers)))

    def weights(words: Words) -> list[dict[tuple[str, ...], float]]:
        return [
            {gram: count * (rows - math.log(max(1, seen[gram]))) for gram, count in ngrams(words, n + 1).items()}
            for n in range(NGRAMS)
        ]

    scores = []
    for reply, row in zip(map(words_of, replies), answers, strict=True):
        ours, score = weights(reply), 0.0
        for answer in row:
            close = math.exp(-((len(reply) - len(answer)) ** 2) / (2 * CIDER_SIGMA**2))
            score += close * _mean([_cosine(a, b) for a, b in zip(ours, weights(answer), strict=True)])
        scores.append(10 * score / len(row))
    return _mean(scores)


def _cosine(ours: dict[tuple[str, ...], float], theirs: dict[tuple[str, ...], float]) -> float:
    """The reply's weights are clipped to the reference's, so that repeating a word does not pay."""
    both = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
    size = math.hypot(*ours.values()) * math.hypot(*theirs.values())
    return both / size if size else 0.0


def _words(references: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    for row, answers in enumerate(references):
        if not answers:
            raise ValueError(f"metrics: row {row} has no reference answer")
    return [[words_of(answer) for answer in answers] for answers in references]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


CAPTION: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], float]] = {
    "bleu4": bleu,
    "rouge_l": rouge_l,
    "cider": cider,
}
