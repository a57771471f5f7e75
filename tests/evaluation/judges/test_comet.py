"""COMET: fast tests with a stand-in for `comet-score`, and one with the real library on a model made on the spot.

The real one installs gigabytes, so it runs only when TUTELAGE_TEST_COMET is set; then the environment is made in
$TUTELAGE_CACHE (or found there).
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from comet_stand_in import stand_in

from tutelage.cli.main import main
from tutelage.common.errors import TutelageError
from tutelage.evaluation.judges import comet
from tutelage.evaluation.judges.comet import comet_ready, comet_scores, setup_comet

SOURCES, REFERENCES = ["the cat sat", "the dog runs", "a tree"], ["the cat sat on", "a dog runs", "a green tree"]
HYPOTHESES = ["the cat", "dog\ndog\u2028dog", ""]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    return tmp_path


def test_scores_come_back_in_order(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stand_in(cache)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert comet_scores(SOURCES, HYPOTHESES, REFERENCES, model="some/model", batch_size=4) == [0.2, 0.3, 0.0]
    what = json.loads(seen.read_text())
    assert what["texts"] == {"-s": SOURCES, "-t": ["the cat", "dog dog dog", ""], "-r": REFERENCES}
    assert (what["given"]["--model"], what["given"]["--batch_size"]) == ("some/model", "4")
    assert what["path"] is None  # this environment's packages stay out of COMET's process
    assert comet_scores([], [], []) == []


def test_a_model_is_a_name_a_file_or_a_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stand_in(cache)
    monkeypatch.chdir(cache)
    file = cache / "mine" / "checkpoints" / "model.ckpt"
    file.parent.mkdir(parents=True)
    with pytest.raises(TutelageError, match=r"it holds no checkpoints/\*.ckpt"):
        comet_scores(SOURCES, HYPOTHESES, REFERENCES, model="mine")
    with pytest.raises(TutelageError, match="no such file"):
        comet_scores(SOURCES, HYPOTHESES, REFERENCES, model=str(file))
    file.touch()
    for name in ("mine", "mine/checkpoints/model.ckpt"):
        comet_scores(SOURCES, HYPOTHESES, REFERENCES, model=name)
        assert json.loads(seen.read_text())["given"]["--model"] == str(file)


def test_without_setup_it_says_so(cache: Path) -> None:
    assert not comet_ready()
    with pytest.raises(TutelageError, match="COMET is not set up: run `tutelage setup comet`"):
        comet_scores(SOURCES, HYPOTHESES, REFERENCES)
    (cache / "comet" / "bin").mkdir(parents=True)  # what a killed setup leaves
    assert not comet_ready()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("""raise KeyError("Model 'x' not supported by COMET.")""", r"run `tutelage setup comet --model some/model`"),
        ("""raise OSError("We couldn't connect to the hub")""", r"run `tutelage setup comet --model some/model`"),
        ("raise RuntimeError('CUDA out of memory')", "COMET ran out of memory"),
        ("sys.exit('something\\n\\nelse\\n')", "comet-score failed: else"),
        ("sys.exit(0)", r"wrote no scores that can be read \(.*No such file"),
        ("open('scores.json', 'w').write('{'); sys.exit(0)", "wrote no scores that can be read"),
        ("texts['-t'].pop()", "gave 2 scores for 3 segments"),
    ],
)
def test_failures_are_one_line(cache: Path, extra: str, words: str) -> None:
    stand_in(cache, extra)
    with pytest.raises(TutelageError, match=words) as caught:
        comet_scores(SOURCES, HYPOTHESES, REFERENCES, model="some/model")
    assert "\n" not in str(caught.value)


def test_broken_input_and_a_broken_environment(cache: Path) -> None:
    stand_in(cache)
    with pytest.raises(TutelageError, match="not 3 sources, 2 hypotheses and 3 references"):
        comet_scores(SOURCES, HYPOTHESES[:2], REFERENCES)
    (cache / "comet" / "bin" / "comet-score").unlink()
    with pytest.raises(TutelageError, match=r"environment is broken .*No such file.*run `tutelage setup comet`"):
        comet_scores(SOURCES, HYPOTHESES, REFERENCES)


PIP = """#!/bin/sh
echo "$@" > {folder}/installed
exit {code}
"""


def fake_python(folder: Path, pip_code: int = 0, release: str = "3 11") -> str:
    """An interpreter whose `-m venv` makes an environment in which pip and comet-score are shell scripts."""
    pip = folder / "pip"
    pip.write_text(PIP.format(folder=folder, code=pip_code))
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then echo {release}; exit; fi\n'
        f'mkdir -p "$3/bin"; cp {pip} "$3/bin/pip"; printf "#!/bin/sh\\n" > "$3/bin/comet-score"; chmod +x "$3"/bin/*\n'
    )
    script.chmod(0o755)
    return str(script)


def test_setup_is_made_once_and_again_when_half_made(cache: Path) -> None:
    said: list[str] = []
    installed = cache / "installed"
    with pytest.raises(TutelageError, match="COMET cannot be installed: pip ended with 3; its output is above"):
        setup_comet(fake_python(cache, pip_code=3), say=said.append)
    assert not comet_ready()
    assert (cache / "comet").is_dir()
    assert setup_comet(fake_python(cache), say=said.append) == cache / "comet"
    assert comet_ready()
    assert "is unfinished or out of date" in said[1]
    torch = version("torch").partition("+")[0]
    assert installed.read_text().split() == ["install", f"torch=={torch}", *comet.PACKAGES]
    installed.unlink()
    setup_comet(fake_python(cache), say=said.append)
    assert "exists already" in said[-1]
    assert not installed.exists()
    (cache / "comet" / "ready.json").write_text('{"packages": ["unbabel-comet==1.0"]}')  # an older release made it
    setup_comet(fake_python(cache), say=said.append)
    assert installed.exists()


def test_setup_wants_an_interpreter_that_comet_can_use(cache: Path) -> None:
    with pytest.raises(TutelageError, match=r"no builds for Python 3\.14; .*--python python3\.12"):
        setup_comet(fake_python(cache, release="3 14"))
    with pytest.raises(TutelageError, match="nowhere/python does not run"):
        setup_comet("/nowhere/python")
    assert not (cache / "comet").exists()


def test_the_command(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["setup", "comet", "--python", fake_python(cache)])
    assert capfd.readouterr().out.splitlines()[-1] == f"COMET is ready in {cache / 'comet'}"
    with pytest.raises(SystemExit):
        main(["setup", "comet", "--model", "some/model"])
    assert "tutelage: some/model cannot be downloaded: " in capfd.readouterr().err


MAKE_MODEL = """
import sys, torch, yaml
from pathlib import Path
import pytorch_lightning as pl
from comet.models import RegressionMetric
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast
out, encoder = Path(sys.argv[1]), Path(sys.argv[1]) / "encoder"
(out / "checkpoints").mkdir(parents=True)
special = ["<s>", "<pad>", "</s>", "<unk>"]
pieces = special + ["\\u2581" + word for word in "the a cat dog sat on tree runs green".split()]
tokenizer = Tokenizer(models.Unigram([(piece, -2.0) for piece in pieces], unk_id=3))
tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(encoder)
torch.manual_seed(0)
config = XLMRobertaConfig(vocab_size=len(pieces) + 4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                          intermediate_size=64, max_position_embeddings=130, pad_token_id=1)
XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(encoder)
metric = RegressionMetric(encoder_model="XLM-RoBERTa", pretrained_model=str(encoder), hidden_sizes=[16], dropout=0.0,
                          train_data=["x"], validation_data=["x"])
trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.strategy.connect(metric)
trainer.save_checkpoint(out / "checkpoints" / "model.ckpt", weights_only=True)
(out / "hparams.yaml").write_text(yaml.dump({**metric.hparams, "class_identifier": "regression_metric"}))
"""
PREDICT = """
import json, sys, comet
model = comet.load_from_checkpoint(sys.argv[1] + "/checkpoints/model.ckpt")
rows = [dict(zip(("src", "mt", "ref"), row)) for row in json.loads(sys.argv[2])]
print(json.dumps(model.predict(rows, gpus=0, progress_bar=False).scores))
"""


def test_the_real_library_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("TUTELAGE_TEST_COMET"):
        pytest.skip("installing COMET takes minutes and gigabytes; set TUTELAGE_TEST_COMET=1 to run this")
    python = setup_comet(say=print) / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    model = tmp_path / "tiny"
    subprocess.run([python, "-c", MAKE_MODEL, str(model)], check=True, env=environment)
    scores = comet_scores(SOURCES, HYPOTHESES, REFERENCES, model=str(model), batch_size=2)
    rows = list(zip(SOURCES, [" ".join(text.split()) for text in HYPOTHESES], REFERENCES, strict=True))
    command = [python, "-c", PREDICT, str(model), json.dumps(rows)]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    direct = json.loads(done.stdout.splitlines()[-1])
    assert scores == pytest.approx(direct, abs=2e-3)  # comet-score computes in half precision
    assert len(set(scores)) == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TutelageError, match=r"not on this machine and cannot be downloaded: run `tutelage setup comet"):
        comet_scores(SOURCES, HYPOTHESES, REFERENCES, model="Unbabel/no-such-model")
