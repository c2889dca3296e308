"""Generation: a batch writes what each row writes alone, rows end by themselves, text has no half characters."""

import pytest

from scops.generate.engine import generate
from scops.generate.sampler import Sampler, Sampling
from scops.generate.text import Words, stream

PROMPTS = [[1], [2, 3, 4], [5, 6], [7, 8, 9, 1, 2]]


class Utf8:
    """A tokenizer of bytes: token i is the byte i of `alphabet`, so that one letter may take several tokens."""

    def __init__(self, alphabet: bytes) -> None:
        self.alphabet, self.left = alphabet, b""

    def step(self, token: int) -> str:
        self.left += self.alphabet[token : token + 1]
        try:
            text, self.left = self.left.decode(), b""
        except UnicodeDecodeError:
            text = ""
        return text

    def finish(self) -> str:
        return self.left.decode(errors="replace")


class Script:
    """A session that writes given ids."""

    def __init__(self, *rows: list[int], vocabulary: int = 300) -> None:
        import torch

        self.torch, self.rows, self.at, self.vocabulary = torch, list(rows), 0, vocabulary
        self._score()

    def _score(self) -> None:
        self.logits_BV = self.torch.zeros(len(self.rows), self.vocabulary)
        for row, ids in enumerate(self.rows):
            self.logits_BV[row, ids[min(self.at, len(ids) - 1)]] = 1

    def step(self, ids_B):
        self.at += 1
        self._score()
        return self.logits_BV

    def select(self, rows_R) -> None:
        self.rows = [self.rows[i] for i in rows_R.tolist()]
        self.logits_BV = self.logits_BV[rows_R]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_batch_writes_what_each_row_writes_alone(recount, temperature: float) -> None:
    def sampler(rows: int, seed: int) -> Sampler:
        return Sampler(Sampling(temperature=temperature, repetition_penalty=1.2, seed=seed), rows=rows)

    together = generate(recount(PROMPTS), stops={0, 3}, limit=12, sampler=sampler(4, 10))
    alone = [
        generate(recount([p]), stops={0, 3}, limit=12, sampler=sampler(1, 10 + i))[0] for i, p in enumerate(PROMPTS)
    ]
    assert together == alone
    assert len({len(reply.ids) for reply in together}) > 1


def test_greedy_equals_a_plain_loop(recount) -> None:
    for reply, prompt in zip(
        generate(recount(PROMPTS), stops={3}, limit=9, sampler=Sampler(Sampling(), rows=4)), PROMPTS, strict=True
    ):
        ids: list[int] = []
        while len(ids) < 9 and 3 not in ids:
            ids.append(int(recount([prompt + ids]).logits_BV.argmax()))
        assert list(reply.ids) == [i for i in ids if i != 3]
        assert reply.ended == ("stop" if 3 in ids else "length")


def test_no_step_is_asked_for_after_the_last_token(recount) -> None:
    session = recount(PROMPTS)
    generate(session, stops=(), limit=5, sampler=Sampler(Sampling(), rows=4))
    assert session.steps == 4


def test_every_row_may_have_its_own_limit(recount) -> None:
    replies = generate(recount(PROMPTS), stops=(), limit=[3, 1, 7, 2], sampler=Sampler(Sampling(), rows=4))
    assert [(len(reply.ids), reply.ended) for reply in replies] == [(n, "length") for n in (3, 1, 7, 2)]
    with pytest.raises(ValueError, match="2 limits for 4 rows"):
        generate(recount(PROMPTS), stops=(), limit=[3, 1], sampler=Sampler(Sampling(), rows=4))


def test_a_limit_below_one_is_refused(recount) -> None:
    with pytest.raises(ValueError, match="at least 1 token, not 0"):
        generate(recount(PROMPTS), stops=(), limit=0, sampler=Sampler(Sampling(), rows=4))


def written(session: Script, *words: Words, limit: int = 50) -> tuple[list[str], list[str]]:
    pieces: list[list[str]] = [[] for _ in words]
    ended = [""] * len(words)
    for piece in stream(session, words=words, stops={299}, limit=limit, sampler=Sampler(Sampling(), rows=len(words))):
        pieces[piece.row].append(piece.text)
        ended[piece.row] = piece.ended or ""
    assert ["".join(texts) for texts in pieces] == [row.text for row in words]
    return [row.text for row in words], ended


def ids_of(text: str) -> list[int]:
    return [*text.encode()]


ALPHABET = bytes(range(256))


def test_no_half_characters_are_streamed() -> None:
    text = "a猫头鹰é🦉"
    for piece in stream(
        Script([*ids_of(text), 299]),
        words=[Words(Utf8(ALPHABET))],
        stops={299},
        limit=50,
        sampler=Sampler(Sampling(), rows=1),
    ):
        assert "\N{REPLACEMENT CHARACTER}" not in piece.text
        assert len(piece.text) <= 1


def test_text_cut_by_the_limit_shows_the_half_character_as_such() -> None:
    text, ended = written(Script(ids_of("a猫")), Words(Utf8(ALPHABET)), limit=3)
    assert (text, ended) == (["a\N{REPLACEMENT CHARACTER}"], ["length"])


@pytest.mark.parametrize("stop", ["#", "##", "\nUser:", "b##\n"])
def test_stop_strings_span_tokens_and_are_never_shown(stop: str) -> None:
    text = "ab##\nUser: c"
    out, ended = written(Script([*ids_of(text), 299]), Words(Utf8(ALPHABET), stops=[stop]))
    assert (out, ended) == ([text[: text.index(stop)]], ["stop"])


def test_a_beginning_of_a_stop_string_that_is_not_completed_is_shown() -> None:
    out, ended = written(Script([*ids_of("ab\nUse me"), 299]), Words(Utf8(ALPHABET), stops=["\nUser:"]))
    assert (out, ended) == (["ab\nUse me"], ["stop"])
    out, ended = written(Script([*ids_of("ab\nUse"), 299]), Words(Utf8(ALPHABET), stops=["\nUser:"]))
    assert out == ["ab\nUse"]


def test_rows_with_stop_strings_end_without_the_others() -> None:
    session = Script([*ids_of("one. two"), 299], [*ids_of("three four five"), 299], [*ids_of("x"), 299])
    out, ended = written(session, *(Words(Utf8(ALPHABET), stops=["."]) for _ in range(3)), limit=11)
    assert (out, ended) == (["one", "three four ", "x"], ["stop", "length", "stop"])


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Words(Utf8(ALPHABET), stops=[""])
