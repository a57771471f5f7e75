"""Vocabularies that teacher and student share, and those that differ."""

from __future__ import annotations

import jobs
import pytest
import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tutelage.common.errors import TutelageError
from tutelage.models.vocabulary import check_vocabularies, head_notice


def test_equal_vocabularies_give_no_notice():
    assert check_vocabularies(jobs.words(), jobs.words()) is None
    assert head_notice(tiny.llama(), tiny.gemma2()) is None


def test_a_longer_vocabulary_is_cut_with_a_notice():
    assert check_vocabularies(jobs.words(100), jobs.words(97)) == (
        "vocabularies are cut to their common 97 tokens (student 97, teacher 100)"
    )
    assert head_notice(tiny.llama(vocab=100), tiny.llama()) == (
        "heads are cut to their common 97 rows (teacher 100, student 97)"
    )


def test_the_first_token_that_differs_is_named():
    with pytest.raises(TutelageError, match="different tokenizers: token 7 is 'cat' for the teacher and 'w7' for the"):
        check_vocabularies(jobs.words(cat=7, dog=30), jobs.words())


def merging(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate([*alphabet, "</s>", "qu", "ui", "ow", "wn", "br"])}
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def test_the_same_tokens_with_other_merges_are_refused():
    one, other = merging([("q", "u"), ("o", "w")]), merging([("u", "i"), ("w", "n")])
    assert one.get_vocab() == other.get_vocab()
    assert check_vocabularies(one, merging([("q", "u"), ("o", "w")])) is None
    with pytest.raises(TutelageError, match="same tokens but split text differently") as caught:
        check_vocabularies(one, other)
    assert "\n" not in str(caught.value)
