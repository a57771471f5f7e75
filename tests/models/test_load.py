"""Loading models, and LanguageModel's split into decoder and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.common.types import Message
from tutelage.data.batch import make_micro_batch
from tutelage.loss.objective import CrossEntropy
from tutelage.models.checkpoints.save import save_model
from tutelage.models.language_model import LanguageModel, language_model_head
from tutelage.models.load import load_model
from tutelage.recipe.sections import ModelConfig

EMPTY: dict[str, Any] = {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": set()}
TEMPLATE = "{% for m in messages %}w3 {{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}w3 {% endif %}"


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path_factory.mktemp("cache")))


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- loading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie", [True, False])
def test_a_saved_model_loads_unchanged(tmp_path: Path, tie: bool):
    model, folder = tiny.llama(tie=tie), tmp_path / "deep" / "model"
    save_model(model, jobs.words(), folder, TEMPLATE)
    loaded = load_model(ModelConfig(path=str(folder)))
    before, after = model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) and after[k].dtype == torch.float32 for k in before)
    assert (loaded.packed, loaded.model.training, loaded.template.text) == (True, False, TEMPLATE)
    assert loaded.tokenizer.get_vocab() == jobs.words().get_vocab()
    assert loaded.template.end_of_turn_ids == (2,)
    assert loaded.template.encode_prompt([Message("user", "w9 w8")]) == [3, 9, 8, 2, 3]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # no partial folder is left
    assert not list(folder.glob("*.bin"))


def test_dtype_and_attention_follow_the_config(tmp_path: Path):
    save_model(tiny.llama(), jobs.words(), tmp_path / "llama")
    save_model(tiny.gemma2(), jobs.words(), tmp_path / "gemma")
    llama = load_model(ModelConfig(path=str(tmp_path / "llama"), attention="padded"), dtype=torch.bfloat16)
    assert (llama.packed, next(llama.model.parameters()).dtype) == (False, torch.bfloat16)
    gemma = load_model(ModelConfig(path=str(tmp_path / "gemma")), dtype=torch.float64)
    assert (gemma.packed, next(gemma.model.parameters()).dtype) == (False, torch.float64)  # windows, capped scores


def test_attention_dropout_needs_padding(tmp_path: Path):
    model = tiny.llama(packed=False)
    model.config.attention_dropout = 0.1
    save_model(model, jobs.words(), tmp_path / "drops", TEMPLATE)
    assert not load_model(ModelConfig(path=str(tmp_path / "drops"))).packed


def nemotron() -> Any:
    """Its layers pass no arguments on to their attention, so packed sequences would attend to each other."""
    from transformers import NemotronConfig, NemotronForCausalLM

    torch.manual_seed(0)
    shape = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = NemotronForCausalLM(NemotronConfig(vocab_size=97, hidden_size=32, eos_token_id=2, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.25)
    return model


def test_a_model_with_other_logits_when_packed_is_padded(tmp_path: Path):
    model, data = nemotron(), tiny.sequences((9, 12))
    save_model(model, jobs.words(), tmp_path / "nemotron", TEMPLATE)
    loaded = load_model(ModelConfig(path=str(tmp_path / "nemotron")))
    assert not loaded.packed
    signal = LanguageModel(loaded.model)(make_micro_batch(data, [1.0, 1.0], True))
    expected = torch.cat([reference(s, model) for s in data])
    torch.testing.assert_close(signal.hidden @ signal.head.weight.t(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(TutelageError) as error:
        load_model(ModelConfig(path=str(tmp_path / "nemotron"), attention="packed"))
    assert one_line(error).endswith("computes other logits when packed: set `attention: padded`")


def test_logits_other_than_those_of_the_head_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tiny.llama(packed=False)
    save_model(model, jobs.words(), tmp_path / "scaled", TEMPLATE)
    forward = type(model.lm_head).forward
    monkeypatch.setattr(
        "torch.nn.Linear.forward", lambda self, x: forward(self, x) * (7.0 if len(self.weight) == 97 else 1)
    )
    with pytest.raises(TutelageError) as error:
        load_model(ModelConfig(path=str(tmp_path / "scaled")))
    assert "LlamaForCausalLM are not those of its last hidden states and its head" in one_line(error)


def test_the_fingerprint_follows_weights_tokenizer_and_template(tmp_path: Path):
    fingerprints = []
    for i, (seed, template) in enumerate([(0, TEMPLATE), (0, TEMPLATE), (1, TEMPLATE), (0, TEMPLATE + " ")]):
        save_model(tiny.llama(seed=seed), jobs.words(), tmp_path / str(i), template)
        fingerprints.append(load_model(ModelConfig(path=str(tmp_path / str(i)))).fingerprint)
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3


def test_a_tokenizer_from_elsewhere_has_no_revision_of_the_model(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, str | None]] = []
    whole = tiny.llama()

    def absent(source: str, revision: str | None = None, **_: Any) -> None:
        asked.append((source, revision))
        raise OSError("not here")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: (whole, EMPTY))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", absent)
    for tokenizer, expected in (("owner/tokens", ("owner/tokens", None)), (None, ("owner/model", "abc"))):
        with pytest.raises(TutelageError):
            load_model(ModelConfig(path="owner/model", revision="abc", tokenizer=tokenizer))
        assert asked.pop() == expected


def test_a_folder_without_tokenizer_and_a_name_out_of_reach_are_one_line(tmp_path: Path):
    tiny.llama().save_pretrained(tmp_path / "m")
    for path in (str(tmp_path / "m"), "nobody/no-such-model"):
        with pytest.raises(TutelageError, match=rf"^cannot load `{path}`: .*Check the name or folder") as caught:
            load_model(ModelConfig(path=path))
        one_line(caught)


# --- decoder and head ------------------------------------------------------------------------------------------------


def reference(sequence, model) -> torch.Tensor:
    """Logits of one sequence alone at its predicting positions, by transformers' own forward."""
    with torch.no_grad():
        return model(sequence.ids[None]).logits[0, :-1][sequence.loss_mask[1:]]


@pytest.mark.parametrize(
    ("model", "plain", "padded"),
    [
        (tiny.llama(), tiny.llama(packed=False), False),
        (tiny.llama(packed=False), tiny.llama(packed=False), True),
        (tiny.gemma2(), tiny.gemma2(), True),
    ],
    ids=["packed", "padded", "padded with capped logits"],
)
def test_loss_and_statistics_are_those_of_each_sequence_alone(model, plain, padded: bool):
    data = tiny.sequences((9, 30, 5, 17))
    batch = make_micro_batch(data, [0.5, 1.0, 2.0, 0.25], padded)
    logits = torch.cat([reference(s, plain) for s in data])
    labels = torch.cat([s.ids[1:][s.loss_mask[1:]] for s in data])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    loss, stats = LanguageModel(model)(batch, CrossEntropy())
    torch.testing.assert_close(stats.cross_entropy, expected, rtol=1e-4, atol=1e-4)
    counts = [5, 26, 1, 13]
    weights = torch.repeat_interleave(torch.tensor([0.5, 1.0, 2.0, 0.25]), torch.tensor(counts))
    assert loss.item() == pytest.approx(float((weights * expected).sum()), rel=1e-4)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(stats.student_entropy, entropy, rtol=1e-4, atol=1e-4)


def test_without_an_objective_forward_returns_hidden_states_and_head():
    model, data = tiny.llama(), tiny.sequences((9, 12))
    signal = LanguageModel(model)(make_micro_batch(data, [1.0, 1.0], False))
    expected = torch.cat([reference(s, tiny.llama(packed=False)) for s in data])
    torch.testing.assert_close(signal.hidden @ signal.head.weight.t(), expected, rtol=1e-4, atol=1e-4)


def test_the_head_carries_what_the_config_does_to_logits():
    assert language_model_head(tiny.gemma2()).softcap == 5.0
    model = tiny.llama()
    assert (language_model_head(model).scale, language_model_head(model).softcap) == (1.0, None)
    model.config.logit_scale = 0.25  # Cohere multiplies
    assert language_model_head(model).scale == 0.25
    model.config.logit_scale, model.config.logits_scaling = None, 8.0  # Granite divides
    assert language_model_head(model).scale == 0.125


def test_gradients_stay_float32_under_bfloat16():
    model, batch = tiny.llama(), make_micro_batch(tiny.sequences((9, 30)), [0.1, 0.1], False)
    exact = tiny.llama()
    LanguageModel(exact)(batch, CrossEntropy())[0].backward()
    with torch.autocast("cpu", torch.bfloat16):
        signal = LanguageModel(model)(batch)
        loss, stats = LanguageModel(model)(batch, CrossEntropy())
    loss.backward()
    assert (signal.hidden.dtype, stats.cross_entropy.dtype) == (torch.bfloat16, torch.float32)
    for a, b in zip(model.parameters(), exact.parameters(), strict=True):
        assert a.dtype == a.grad.dtype == torch.float32
        assert float((a.grad - b.grad).norm()) < 0.05 * float(b.grad.norm()) + 1e-4
