"""Packing, the label shift, and a packed forward pass against one sequence at a time."""

import pytest
import torch
from tiny import gemma2, llama, sequences

from tutelage.data.batch import group_by_budget, make_micro_batch, make_micro_batches, rank_share
from tutelage.loss.objective import CrossEntropy
from tutelage.models.language_model import LanguageModel


def test_groups_keep_the_budget_and_every_sequence():
    lengths = [7, 3, 9, 30, 1, 5, 5, 12]
    packed = group_by_budget(lengths, 14, padded=False)
    assert sorted(i for g in packed for i in g) == list(range(8))
    assert all(sum(lengths[i] for i in g) <= 14 or len(g) == 1 for g in packed)
    assert packed == [[3], [7, 4], [2, 5], [0, 6], [1]]  # longest first, each into the fullest group with space
    padded = group_by_budget(lengths, 14, padded=True)
    assert sorted(i for g in padded for i in g) == list(range(8))
    assert all(len(g) * max(lengths[i] for i in g) <= 14 or len(g) == 1 for g in padded)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_share_sequences_and_tokens_evenly(ranks: int):
    lengths = torch.randint(5, 400, (29,), generator=torch.Generator().manual_seed(1)).tolist()
    whole = sequences(lengths)
    shares = [rank_share(whole, rank, ranks) for rank in range(ranks)]
    assert sorted(s.index for share in shares for s in share) == list(range(29))
    counts, tokens = [len(share) for share in shares], [sum(len(s.ids) for s in share) for share in shares]
    assert max(counts) - min(counts) <= 1
    assert max(tokens) - min(tokens) <= max(lengths)
    if ranks == 1:
        assert [s.index for s in shares[0]] == list(range(29))  # in the given order


def test_labels_are_shifted_once():
    batch = make_micro_batch(sequences([6, 5], prompt=4), [0.5, 0.25], padded=False)
    first, second = sequences([6, 5], prompt=4)
    assert batch.input_ids.shape == (1, 11)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]]
    assert batch.predict.tolist() == [3, 4, 9]  # position 3 predicts token 4, the first response token
    assert batch.labels.tolist() == [first.ids[4], first.ids[5], second.ids[4]]
    assert batch.weights.tolist() == [0.5, 0.5, 0.25]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 6, 11]
    padded = make_micro_batch(sequences([6, 5], prompt=4), [0.5, 0.25], padded=True)
    assert padded.predict.tolist() == [3, 4, 9]  # row 1 starts at 6
    assert padded.attention_mask.tolist() == [[1] * 6, [1] * 5 + [0]]


@pytest.mark.parametrize("make", [llama, gemma2])
def test_packed_and_padded_equal_one_sequence_at_a_time(make):
    model = make().double()
    padded = make is gemma2
    rows = sequences([19, 6, 11, 8, 23])
    expected = []
    plain = (gemma2() if padded else llama(packed=False)).double()
    for row in rows:
        logits = plain(row.ids[None]).logits[0]
        expected.append(torch.nn.functional.cross_entropy(logits[3:-1], row.ids[4:], reduction="none"))
    batch = make_micro_batch(rows, [1.0] * 5, padded=padded)
    _, stats = LanguageModel(model)(batch, CrossEntropy())
    torch.testing.assert_close(stats.loss, torch.cat(expected).float().detach(), rtol=1e-5, atol=1e-6)


def test_gradient_does_not_depend_on_the_split_into_micro_batches():
    rows = sequences([40, 7, 90, 12, 5, 33])
    gradients = []
    for budget in (1000, 50, 1):
        model = LanguageModel(llama())
        for batch in make_micro_batches(rows, [1.0 / 163] * 6, budget, padded=False):
            loss, _ = model(batch, CrossEntropy())
            loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for other in gradients[1:]:
        assert (gradients[0] - other).norm() <= 1e-5
