"""A hundred malformed inputs, each read in this process: one line with its file, line or key, and what to do.

Whole commands are in tests/recipe/test_bad_input.py; here no model is loaded and nothing is trained.
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
import yaml
from malformed import (
    RECIPE,
    RECORD,
    Case,
    bench,
    bomb,
    data,
    judge,
    kept,
    known,
    model,
    override,
    recipe,
    recipe_key,
    records,
    replies,
    result,
    row,
    study,
    study_key,
    template,
    turns,
    variable,
    written,
)
from tiny_benchmarks import write_data

from tutelage.common.errors import TutelageError
from tutelage.evaluation.benchmarks import benchmark
from tutelage.evaluation.benchmarks.data import data_folder
from tutelage.evaluation.compare import compare_folders
from tutelage.evaluation.judges.chat_client import ChatClient
from tutelage.evaluation.judges.endpoint import JudgeEndpoint, judge_of, with_url
from tutelage.evaluation.judges.rules import wording_of_file
from tutelage.evaluation.records import read_records
from tutelage.evaluation.replies import score_file
from tutelage.recipe.study import JudgeConfig
from tutelage.runs.stages.earlier import rescore_runs

SECONDS = 2.0  # for one case, on a slow machine; nearly all take milliseconds

GOOD = {"prompt": "a", "completion": "b", "p": "a", "q": "b"}
BETA = {"name": "g", "kind": "distill", "data": "train", "divergence": "forward_kl", "beta": 0.1}
TURN = {"role": "user", "content": "a"}

CASES = [
    recipe("a number", "7", "mapping"),
    recipe("nothing", "", "mapping"),
    recipe("tabs", "name: r\n\tdata: {}\n", "r.yaml:2", "YAML"),
    recipe("unclosed list", "name: r\nseeds: [0\n", "YAML"),
    recipe("a Python object", "name: !!python/object/apply:os.system ['true']\n", "r.yaml:1", "python/object"),
    recipe("a Python tuple", "seeds: !!python/tuple [1, 2]\n", "r.yaml:1", "python/tuple"),
    recipe("an alias to nothing", "name: *x\n", "r.yaml:1", "alias"),
    recipe("a list as a key", "? [a, b]\n: c\n", "r.yaml:1"),
    recipe("a mapping as a key", "? {a: b}\n: c\n", "r.yaml:1"),
    recipe("not UTF-8", b"name: \xff\n", "UTF-8"),
    recipe("UTF-16", "name: r".encode("utf-16"), "UTF-8"),
    recipe("a control character", "name: a\x07b\n", "YAML"),
    recipe("a key twice", "name: a\nname: b\n", "r.yaml:2", "twice"),
    recipe("nested hundreds deep", "a: " + "[" * 600 + "]" * 600, "deep"),
    recipe_key("no stages", "stages", ..., "stages"),
    recipe_key("stages as a mapping", "stages", {"sft": {}}, "stages"),
    recipe_key("a stage as text", "stages.0", "sft", "stages (number 1)"),
    recipe_key("a stage without kind", "stages.0.kind", ..., "stages.sft", "kind"),
    recipe_key("a name with dots", "name", "../x", "name", "pattern"),
    recipe_key("a name as a number", "name", 7, "name", "string"),
    recipe_key("a long name", "name", "x" * 200, "name", "100"),
    recipe_key("a stage's name with a path", "stages.0.name", "../../x", "stages (number 1).name", "pattern"),
    recipe_key("a task's name with a path", "tasks", {"../x": RECIPE["tasks"]["test"]}, "tasks", "folder's name"),
    recipe_key("a task's name of dots", "tasks", {"..": RECIPE["tasks"]["test"]}, "tasks", "folder's name"),
    recipe_key("a seed as text", "seeds", ["one"], "seeds (number 1)", "whole number"),
    recipe_key(
        "an unknown metric", "tasks.test.metrics", ["rouge"], "tasks.test.metrics (number 1)", "did you mean `rouge_l`?"
    ),
    recipe_key("a word for a switch", "training.shard", "hst", "training.shard", "`hst` is none of true, false, host"),
    recipe_key("no seeds", "seeds", [], "seeds", "at least 1"),
    recipe_key("data as a list", "data", ["a.jsonl"], "data", "dictionary"),
    recipe_key("data without path", "data.train", {}, "data.train.path", "required"),
    recipe_key("null as a path", "data.train.path", None, "data.train.path"),
    recipe_key("a rate that is no number", "training.learning_rate", float("nan"), "training.learning_rate"),
    recipe_key("an endless rate", "training.learning_rate", float("inf"), "training.learning_rate"),
    recipe_key("a batch of a half", "training.batch_size", 0.5, "training.batch_size"),
    recipe_key("unknown metric", "tasks.test.metrics", ["blue"], "tasks.test.metrics (number 1)", "rouge_l"),
    recipe_key("no metric", "tasks.test.metrics", [], "tasks.test.metrics", "at least 1"),
    recipe_key("a rate of decay of 1", "training.adam_betas", [1.0, 0.9], "training.adam_betas", "below 1"),
    recipe_key("endless decay", "training.weight_decay", float("inf"), "training.weight_decay", "finite"),
    recipe_key("a grid of nothing", "search", {"grid": {}, "task": "test"}, "search.grid", "at least one"),
    recipe_key("a beta that nothing reads", "stages.0", BETA, "stages.g", "`beta`", "forward_kl", "remove"),
    recipe_key("unknown device", "device", "tpu", "device", "cuda"),
    recipe_key("plain text with a prompt", "data.train", {"path": "a", "text": "{b}", "prompt": "{b}"}, "data.train"),
    override("training", "key=value"),
    override("=3", "unknown key"),
    override("training.learning_rate=fast", "training.learning_rate", "number"),
    override("training.batch_size=[1", "YAML"),
    override("stages.sft=3", "stages.sft"),
    override("stages.nobody.data=x", "`nobody`"),
    override("teacher.path.x.y=3", "no keys"),
    override("name=../../x", "name", "pattern"),
    override("training.epochs=!!python/object/apply:os.system ['true']", "YAML"),
    study("a recipe", yaml.safe_dump(RECIPE), "recipe"),
    study("empty", "name: s\n", "grids"),
    study("a list", "- a\n", "mapping"),
    study_key("unknown student", "grids.0.students", ["x"], "grids (number 1)", "`x`"),
    study_key("no template", "grids.0.template", "gone.yaml", "gone.yaml", "does not exist"),
    study_key("a task's name with a path", "tasks", {"a/../b": {"benchmark": "bbh"}}, "tasks", "folder's name"),
    study_key("no such benchmark", "grids.0.tasks", ["mmlu"], "`mmlu`", template=RECIPE),
    study_key("a circle", "include", ["s.yaml"], "s.yaml", "circle", template=RECIPE),
    study_key("an include that is not there", "include", ["gone.yaml"], "gone.yaml", template=RECIPE),
    study_key("no such method", "grids.0.methods", ["gkd"], "gkd", "sft", template=RECIPE),
    study_key("a judge file that is not there", "judge", "gone.yaml", "gone.yaml", template=RECIPE),
    study_key("exclusion of nothing", "grids.0.exclude", [{}], "exclude", template=RECIPE),
    study_key("a template that is broken", "seeds", [0], "r.yaml:1", "YAML", template="{"),
    data("no file", None, "data.d.path", "a.jsonl", "correct the path"),
    data("a folder", None, "data.d.path", "folder", path="."),
    data("no match", None, "data.d.path", "no file matches", path="*.jsonl"),
    data("an unknown form", "a,b\n", "a.xyz", "formats", name="a.xyz", path="./a.xyz"),
    data("an empty file", "", "no usable row"),
    data("blank lines", "\n\n", "no usable row"),
    data("an empty list of paths", None, "data.d.path", "empty", path=[]),
    data("not gzip", "{}", "a.jsonl.gz", "get the file again", name="a.jsonl.gz"),
    data("cut gzip", gzip.compress(b'{"prompt": "a"}' * 999)[:-9], "get the file again", name="a.jsonl.gz"),
    data("not Parquet", "x", "a.parquet", "get the file again", name="a.parquet"),
    data("an empty Parquet file", "", "a.parquet", "get the file again", name="a.parquet"),
    data("broken JSON", "[{", "a.json:1", "broken JSON", name="a.json"),
    data("lines named .json", '{"a": 1}\n{"a": 2}\n', "a.json:2", ".jsonl", name="a.json"),
    data("an object of two lists", '{"a": [], "b": []}', "a.json", "one list", name="a.json"),
    data("a deep .json", "[" * 100_000, "a.json", name="a.json"),
    data("binary", b"\x00\xff\xfe" * 9, "a.jsonl:1"),
    data("one id for two", [{"prompt": "a", "completion": "b", "k": 1}] * 2, "data.d.id", "`k`", id="k"),
    data("more rows than there are", [{"prompt": "a", "completion": "b"}], "data.d.size", "lower", size=9),
    data("two columns of one name", "prompt,completion,completion\na,b,c\n", "a.csv", "`completion`", name="a.csv"),
    data("UTF-16", '{"prompt": "a", "completion": "b"}'.encode("utf-16"), "a.jsonl", "UTF-16", "UTF-8"),
    data("gzip without its name", gzip.compress(b"{}"), "a.jsonl", "call it a.jsonl.gz"),
    data("a split of a file", [GOOD], "data.d.split", "hub", "remove", split="test"),
    data("a revision of a file", [GOOD], "data.d.revision", "hub", "remove", revision="main"),
    data("an address", None, "data.d.path", "https://x.org/a.jsonl", "download", path="https://x.org/a.jsonl"),
    data("a template that is a word", [GOOD], "data.d.completion", "`{column}`", prompt="{p}", completion="answer"),
    data("a template that is a column", [GOOD], "`q`", "write `{q}`", prompt="{p}", completion="{q}", references=["q"]),
    data("a prompt that is a column", [GOOD], "`p`", "write `{p}`", prompt="p", completion="{q}"),
    data("braces as in Jinja", [GOOD], "data.d.prompt", "`{column}`", prompt="{{ p }}", completion="{q}"),
    data("braces with spaces", [GOOD], "`{ p }`", "write `{p}`", prompt="{q}{ p }", completion="{q}"),
    data("an id with a fraction", [GOOD | {"k": 1.5}], "`k`", "1.5", "whole numbers", id="k"),
    data("a pair of texts", [{"prompt": "a", "chosen": "b"}], "no reply", '`completion: "{chosen}"`'),
    data("a pair of chats", [{"prompt": "a", "chosen": [TURN, TURN]}], "no reply", "`messages: chosen`"),
    data("a pair of replies", [{"prompt": "a", "chosen": [TURN | {"role": "assistant"}]}], "rename `chosen`"),
    row("a list", [1], "not an object"),
    row("a key twice", '{"prompt": "a", "prompt": "b", "completion": "c"}', "two keys `prompt`"),
    row("broken JSON", "{", "broken JSON"),
    row("a deep list", "[" * 100_000, "broken JSON"),
    row("no known column", {"text": "a"}, "`messages`", "templates"),
    row("a number as prompt", {"prompt": 3, "completion": "b"}, "`prompt`"),
    row("no reply", {"prompt": "a"}, "no reply"),
    row("an empty reply", {"prompt": "a", "completion": " "}, "answer is empty"),
    row("an empty question", {"prompt": " ", "completion": "a"}, "question is empty"),
    row("messages as text", {"messages": "hello"}, "`messages`"),
    row("no messages", {"messages": []}, "empty conversation"),
    row("a turn as text", {"messages": ["hello"]}, "turn 1"),
    row("a turn without content", {"messages": [{"role": "user"}]}, "turn 1"),
    turns("an unknown role", ("narrator", "a"), ("assistant", "b"), words=("turn 1", "narrator")),
    turns("a number as content", ("user", 3), ("assistant", "b"), words=("turn 1", "text")),
    turns("the assistant first", ("assistant", "b"), ("user", "a"), words=("turn 1",)),
    turns("a late system turn", ("user", "a"), ("system", "b"), words=("turn 2", "first")),
    turns("half a character", ("user", "a\ud800"), ("assistant", "b"), words=("turn 1", "surrogate")),
    row("a column that is not there", {"p": "a"}, "`q`", "columns", prompt="{q}", completion="{p}"),
    row("a list in a template", {"p": ["a"]}, "`p`", "list", prompt="{p}", completion="{p}"),
    row("references as text", {"prompt": "a", "completion": "b", "references": "c"}, "`references`"),
    model("an empty folder", {"readme.txt": "x"}, "config.json", "save_pretrained"),
    model("no weights", {"config.json": "{}"}, "no weights", "safetensors"),
    model("pickled weights", {"config.json": "{}", "pytorch_model.bin": "x"}, "pickled", "safetensors"),
    model("a pickled checkpoint", {"config.json": "{}", "model.ckpt": "x"}, "pickled", "convert"),
    model("a folder that is not there", {}, "does not exist", "give "),
    model("a GGUF file that is not there", {}, "does not exist", "correct the path", path="{folder}/x.gguf"),
    model("a damaged GGUF file", {"x.gguf": b"GGUF" + b"\0" * 20}, "x.gguf", "get the file", path="{folder}/m/x.gguf"),
    model("a package that is not there", {}, "not installed", "pip install", path="package:no_such_package_at_all"),
    model("a package without a name", {}, "package:", path="package:"),
    model("a package in a package", {}, "no.such", path="package:no.such"),
    model("a package as a path", {}, "../x", path="package:../x"),
    template("no file", None, "chat_template", "t.jinja"),
    template("not UTF-8", b"\xff", "chat_template", "t.jinja"),
    template("broken Jinja", "{% for %}", "chat template"),
    template("an error of its own", "{{ raise_exception('no\\nway') }}", "no way", "chat_template"),
    template("an unknown filter", "{{ messages | nofilter }}", "nofilter", "chat_template"),
    template("a division by zero", "{{ 1 / 0 }}", "zero", "chat_template"),
    template("Python's inside", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe", "chat_template"),
    template("a function's globals", "{{ raise_exception.__globals__['os'] }}", "unsafe", "chat_template"),
    template("a change of the messages", "{{ messages.append(1) }}", "chat_template"),
    template("a file to include", "{% include '/etc/passwd' %}", "chat_template"),
    template("an import", "{% import 'os' as os %}{{ os }}", "chat_template"),
    template("a loop without end", "{% for i in range(10 ** 9) %}x{% endfor %}", "chat_template"),
    records("not JSON", "{", "examples.jsonl:2", "again"),
    records("other keys", {"id": "a"}, "examples.jsonl:2", "keys"),
    records("a score as text", RECORD | {"scores": {"rouge_l": "good"}}, "examples.jsonl:2", "`scores`"),
    records("no scores", RECORD | {"scores": None}, "examples.jsonl:2", "`scores`"),
    records("a number as parts", RECORD | {"parts": 3}, "examples.jsonl:2"),
    records("a list", [], "examples.jsonl:2"),
    Case("records: none", read_records, ("examples.jsonl", "again")),
    result("none", None),
    result("cut", '{"task": "x", "metr'),
    result("empty", ""),
    result("a list", "[]"),
    result("of another kind", '{"loss": 3}'),
    result("binary", b"\xff\xfe"),
    Case("compare: no evaluation", lambda f: compare_folders(f, f), ("evaluation",)),
    Case("rescore: nothing kept", lambda f: list(rescore_runs(f)), ("responses.jsonl", "folder of runs")),
    kept("two for one", [{"id": "10", "response": "a", "finished": True}] * 2, "`10`", "two"),
    kept("not a text", [{"id": "10", "response": 3}], "`response`"),
    kept("no id", [{"response": "a"}], ":1", "`id`"),
    Case("replies: unknown benchmark", lambda f: score_file("mmlu", f / "r.jsonl"), ("`mmlu`", "mmlu_pro")),
    Case("replies: no file", lambda f: score_file("bbh", f / "r.jsonl", write_data(f / "d")), ("r.jsonl", "not exist")),
    replies("nothing", "", "no reply"),
    replies("not JSON", ["{"], "r.jsonl:1", "correct or remove"),
    replies("not UTF-8", b"\xff\n", "correct it"),
    replies("no id", [{"response": "a"}], "r.jsonl:1", "`id`"),
    replies("a list as id", [{"id": [], "response": "a"}], "r.jsonl:1", "`id`"),
    replies("no response", [{"id": 10}], "r.jsonl:1", "`response`"),
    replies("a judgement for a list", [{"id": "easy_1", "judgements": "yes"}], "r.jsonl:1", "list", task="infobench"),
    Case(
        "replies: too few judgements",
        lambda f: score_file(
            "infobench", written(f, "r.jsonl", [{"id": "easy_1", "judgements": ["yes"]}]), write_data(f / "d")
        ),
        ("`easy_1`", "2 questions", "1 judgements", "null"),
    ),
    replies("likelihoods as text", [{"id": "Q_1", "response": "A", "likelihoods": "x"}], "list", task="arc_challenge"),
    replies("a broken seal", [{"id": "rec1", "response": "sealed:!"}], "r.jsonl:1", "plain text", task="gpqa"),
    bench("not JSON", "ifeval", "ifeval/input_data.jsonl", ["{"], ":1"),
    bench("no key", "ifeval", "ifeval/input_data.jsonl", [{"prompt": "a"}], ":1", "`key`", "source"),
    bench("a list", "mmlu_pro", "mmlu_pro/mmlu_pro_test.jsonl", [[1]], ":1", "not an object"),
    bench(
        "no options",
        "mmlu_pro",
        "mmlu_pro/mmlu_pro_test.jsonl",
        [{"question_id": 1, "question": "q", "options": None, "answer": "A", "category": "law"}],
        "source",
    ),
    bench("not gzip", "infobench", "infobench/InFoBench.jsonl.gz", "x", "source"),
    bench("not a zip", "gpqa", "gpqa/dataset.zip", "x", "authors"),
    Case("benchmark: gpqa: a zip bomb", bomb, ("dataset.zip", "60000000 bytes")),
    Case("benchmark: no file", lambda f: benchmark("bbh").load(f, group="x"), ("bbh",)),
    judge("no address", lambda f: with_url(JudgeEndpoint("", "j"), "infobench"), "TUTELAGE_JUDGE_URL"),
    judge(
        "an address of files", lambda f: ChatClient(JudgeEndpoint("file:///etc", "j", cache_folder=f)), "--judge-url"
    ),
    judge("rules that are not there", lambda f: wording_of_file(f / "gone.txt"), "gone.txt", "`rules`"),
    judge("empty rules", lambda f: wording_of_file(written(f, "r.txt", " ")), "r.txt", "empty"),
    judge("rules that are code", lambda f: wording_of_file(written(f, "r.py", "SYS_MSG = open('/x')")), "SYS_MSG"),
    judge("rules in no Python", lambda f: wording_of_file(written(f, "r.py", "def (")), "r.py", "SYS_MSG"),
    judge("rules as a folder", lambda f: judge_of(JudgeConfig(model="j", rules=str(f))), "`rules`"),
    variable("data folder", "TUTELAGE_DATA", "{folder}/gone", lambda f: data_folder(None), "$TUTELAGE_DATA", "gone"),
    variable("unset in data", "NOT_SET", None, data("", None, path="$NOT_SET/a.jsonl").read, "data.d.path", "$NOT_SET"),
    variable("unset in a model", "NOT_SET", None, model("", {}, path="$NOT_SET/m").read, "$NOT_SET", "export"),
    variable(
        "no judge",
        "TUTELAGE_JUDGE_URL",
        None,
        lambda f: with_url(known(judge_of(JudgeConfig(model="j"))), "infobench"),
        "judge.url",
        "TUTELAGE_JUDGE_URL",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_one_line_says_where_and_what_to_do(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    with pytest.raises(TutelageError) as error:
        case.read(tmp_path)
    spent = time.perf_counter() - started
    line = " ".join(str(error.value).split())  # as the command line prints it
    assert [word for word in case.words if word not in line] == [], line
    assert 20 < len(line) < 700, line
    assert "Traceback" not in line
    assert spent < SECONDS


def test_there_are_enough_cases() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 100
