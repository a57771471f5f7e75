"""Each benchmark on a few made-up rows: what is read, what is asked, how written replies are scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_benchmarks import write_data

from tutelage.evaluate.benchmarks import BENCHMARKS, PAPER, benchmark, chosen
from tutelage.evaluate.benchmarks.base import Benchmark, Item, Reply
from tutelage.evaluate.benchmarks.flores import corpus_chrf
from tutelage.evaluate.benchmarks.gpqa import seal, unseal
from tutelage.evaluate.records import ExampleRecord
from tutelage.types import TutelageError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def item_of(bench: Benchmark, data: Path, id: str) -> Item:
    return next(item for item in bench.load(data) if item.id == id)


def scored(name: str, data: Path, id: str, reply: str) -> ExampleRecord:
    bench = BENCHMARKS[name]
    return bench.score([item_of(bench, data, id)], {id: Reply(reply)})[0]


def test_ids(data: Path) -> None:
    ids = {name: [item.id for item in BENCHMARKS[name].load(data)] for name in BENCHMARKS}
    assert ids["bbh"][:2] == ["boolean_expressions/0", "boolean_expressions/1"]
    assert len(ids["bbh"]) == 28
    assert ids["ifeval"] == ["1", "2"]
    assert ids["infobench"] == ["easy_1", "hard_1"]
    assert ids["mmlu_pro"] == ["10", "11", "12"]
    assert ids["arc_challenge"] == ["Q_1", "Q_2"]
    assert ids["dialogsum"] == ["test_0", "test_1"]
    assert ids["flores"] == ["0", "1", "2"]
    assert ids["gpqa"] == ["rec1", "rec2", "rec3"]
    assert ids["gpqa_diamond"] == ["rec2"]


def test_names() -> None:
    assert chosen("paper") == list(PAPER)
    assert len(PAPER) == 8
    assert chosen(" bbh, paper ")[0] == "bbh"
    assert len(chosen("bbh,paper")) == 8
    with pytest.raises(TutelageError, match="no benchmark is called `mmlu` "):
        chosen("ifeval,mmlu")
    with pytest.raises(TutelageError, match="names none"):
        chosen(",")


def test_limit_takes_evenly_from_the_groups_and_keeps_the_order(data: Path) -> None:
    bench = BENCHMARKS["bbh"]
    all_ids = [item.id for item in bench.load(data)]
    few = bench.load(data, limit=27)
    assert len({item.group for item in few}) == 27
    assert [item.id for item in few] == [id for id in all_ids if id in {item.id for item in few}]
    assert [item.id for item in bench.load(data, 5, seed=1)] != [item.id for item in bench.load(data, 5, seed=2)]
    assert {item.id for item in bench.load(data, 4)} < {item.id for item in bench.load(data, 9)}


# --- BBH ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "reply", "answer", "right"),
    [
        ("boolean_expressions/0", "We get True and True. So the answer is True.", "True", 1),
        ("boolean_expressions/0", "so the answer is true", "True", 1),
        ("boolean_expressions/0", "So the answer is False. No: the answer is True.", "True", 1),
        ("boolean_expressions/0", "$\\boxed{\\text{False}}$", "False", 0),
        ("navigate/0", "So the answer is no", "No", 1),
        ("navigate/0", "Yes, you do.", "Yes", 0),
        ("formal_fallacies/0", "So the answer is invalid.", "invalid", 1),
        ("formal_fallacies/0", "So the answer is valid.", "valid", 0),
        ("formal_fallacies/0", "So the answer is not valid.", "invalid", 1),
        ("formal_fallacies/0", "The argument isn't deductively valid.", "invalid", 1),
        ("object_counting/0", "2 + 5 = 7. So the answer is 7.", "7", 1),
        ("object_counting/0", "So the answer is seven fruits.", "7", 1),
        ("object_counting/0", "So the answer is 2 + 5 = 7", "7", 1),
        ("object_counting/0", "So the answer is 17.", "17", 0),
        ("word_sorting/0", "So the answer is fig pear plum.", "fig pear plum", 1),
        ("word_sorting/0", "The answer is: Fig, pear, plum", "Fig, pear, plum", 1),
        ("word_sorting/0", "So the answer is pear fig plum.", "pear fig plum", 0),
        ("word_sorting/0", "The sorted list: fig pear plum", "fig pear plum", 1),
        ("word_sorting/0", "I cannot sort that.", None, 0),
        ("dyck_languages/0", "So the answer is } ) ].", "} ) ]", 1),
        ("dyck_languages/0", "So the answer is })]", "} ) ]", 1),
        ("dyck_languages/0", "So the answer is ) } ].", ") } ]", 0),
        ("dyck_languages/0", "} ) ]", "} ) ]", 1),
        ("dyck_languages/0", "So it is:\n\n`} ) ]`", "} ) ]", 1),
        ("dyck_languages/0", "$\\boxed{} ) ]}$", "} ) ]", 1),
        ("dyck_languages/0", "\\boxed{\\text{\\} ) ]}}", "} ) ]", 1),
        ("dyck_languages/0", "No brackets here.", None, 0),
        ("snarks/0", "Rain is my favourite oven", "(B)", 1),
        ("snarks/0", '"' * 4000, None, 0),
        ("word_sorting/0", '"' * 4000, None, 0),
        ("snarks/0", "Ovens are odd. So the answer is (B).", "(B)", 1),
        ("snarks/0", "The answer is B", "(B)", 1),
        ("snarks/0", "\\boxed{(B)}", "(B)", 1),
        ("snarks/0", "The answer is (A). On second thought, the answer is (B)!", "(B)", 1),
        ("snarks/0", "The answer is Rain is wet.", "(A)", 0),
        ("snarks/0", "", None, 0),
    ],
)
def test_bbh_replies(data: Path, id: str, reply: str, answer: str | None, right: int) -> None:
    record = scored("bbh", data, id, reply)
    assert (record.answer, record.scores["accuracy"]) == (answer, right)


def test_bbh_has_lm_evals_own_score_beside(data: Path) -> None:
    assert scored("bbh", data, "snarks/0", "So the answer is (B).").scores["accuracy_lm_eval"] == 1
    assert (
        scored("bbh", data, "snarks/0", "So the answer is (B)").scores["accuracy_lm_eval"] == 0
    )  # it eats a character
    late = scored("bbh", data, "snarks/0", "A thought.\n\nSo the answer is (B).").scores
    assert (late["accuracy"], late["accuracy_lm_eval"]) == (1, 0)  # it stops at a blank line


def test_bbh_numbers(data: Path) -> None:
    bench = BENCHMARKS["bbh"]
    items = [item for item in bench.load(data) if item.group in ("boolean_expressions", "navigate")]
    replies = {"boolean_expressions/0": "True", "boolean_expressions/1": "True", "navigate/0": "No"}
    result = bench.summarise(bench.score(items, {id: Reply(text) for id, text in replies.items()}))
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(75.0)  # mean of 50 and 100
    assert result["metrics"]["accuracy_weighted"]["value"] == pytest.approx(200 / 3)
    assert result["metrics"]["accuracy"]["stderr"] == pytest.approx(25.0)  # half the distance of the two tasks
    assert result["groups"]["boolean_expressions"]["value"] == pytest.approx(50.0)


def test_bbh_asks_the_official_three_shots(data: Path) -> None:
    bench = BENCHMARKS["bbh"]
    item = item_of(bench, data, "boolean_expressions/0")
    text = bench.prompt(item, chat=False, shots=3).text
    assert text.startswith(
        "Evaluate the result of a random Boolean expression.\n\nQ: not ( ( not not True ) ) is\nA: Let's"
    )
    assert text.endswith("So the answer is True.\n\nQ: True and not False is\nA: Let's think step by step.\n")
    turns = bench.prompt(item, chat=True, shots=3).messages
    assert [turn.role for turn in turns] == ["user", "assistant"] * 3 + ["user"]
    assert turns[0].content.startswith("Evaluate the result of a random Boolean expression.\n\nQ: not (")
    assert len(bench.prompt(item, chat=True, shots=1).messages) == 3


def test_bbh_prompts_are_the_official_ones(data_folder: Path) -> None:
    bench = BENCHMARKS["bbh"]
    first = {item.group: item for item in reversed(bench.load(data_folder))}
    differing = []
    for task, item in first.items():
        official = (data_folder / f"bbh/cot-prompts/{task}.txt").read_text().split("-----\n", 1)[1].strip()
        text = bench.prompt(item, chat=False, shots=3).text
        asked = f"{official}\n\nQ: {item.prompt}\nA: Let's think step by step.\n"
        if text != asked:
            differing.append(task)
            assert text.replace("step.\n", "step. ") == asked.replace("step.\n", "step. ")
    assert differing == ["sports_understanding"]  # one line break for a space


# --- MMLU-Pro, GPQA, ARC --------------------------------------------------------------------------------------------

LETTER_REPLIES = [
    ("The answer is (B).", "B"),
    ("I think that the answer is B, for it is large.", "B"),
    ("$\\boxed{B}$", "B"),
    ("It must be (B)", "B"),
    ("The answer is (B). So the answer is (B).", "B"),
    ("The answer is (A). No, the answer is (B).", "B"),
    ("the answer is b", "B"),
    ("Answer: B.", "B"),
    ("I do not know.", None),
    ("", None),
]


@pytest.mark.parametrize(("reply", "answer"), LETTER_REPLIES)
@pytest.mark.parametrize(("name", "id"), [("mmlu_pro", "11"), ("gpqa", "rec2"), ("arc_challenge", "Q_2")])
def test_letters_of_every_multiple_choice(data: Path, name: str, id: str, reply: str, answer: str | None) -> None:
    record = scored(name, data, id, reply)
    assert record.answer == answer
    assert record.scores["accuracy"] == float(record.references[0] == answer)


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("The answer is (B).", (1, 1, 1)),
        ("The answer is (A). No, the answer is (B).", (1, 0, 0)),  # the official script takes the first
        ("Answer: B", (1, 1, 0)),
        ("Answer: A, or rather Answer: B", (1, 1, 0)),  # of one line it takes the last
        ("I do not know about Bonn", (0, 1, 0)),  # and in the end any capital letter
    ],
)
def test_mmlu_pro_is_read_three_ways(data: Path, reply: str, scores: tuple[int, int, int]) -> None:
    found = scored("mmlu_pro", data, "11", reply).scores
    assert (found["accuracy"], found["accuracy_official"], found["accuracy_lm_eval"]) == scores


def test_mmlu_pro_prompt_and_numbers(data: Path) -> None:
    bench = BENCHMARKS["mmlu_pro"]
    items = bench.load(data)
    text = bench.prompt(items[1], chat=False, shots=5).text
    assert text.startswith("The following are multiple choice questions (with answers) about math. Think step by step")
    assert text.count("The answer is (A).") == 5
    assert text.endswith("J. 12\nAnswer: Let's think step by step.")
    replies = {"10": Reply("The answer is (B)."), "11": Reply("The answer is (A)."), "12": Reply("The answer is (B).")}
    result = bench.summarise(bench.score(items, replies))
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(200 / 3)
    sums = (1 / 3, 1 / 3 - 2 / 3)  # deviations summed over physics and over math
    assert result["metrics"]["accuracy"]["stderr"] == pytest.approx(
        100 * (2 * (sums[0] ** 2 + sums[1] ** 2)) ** 0.5 / 3
    )
    assert result["groups"]["math"]["value"] == pytest.approx(50.0)


def test_mmlu_pro_scores_without_its_validation_file(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    (data / "mmlu_pro/mmlu_pro_validation.jsonl").unlink()
    assert scored("mmlu_pro", data, "10", "The answer is (B).").scores["accuracy"] == 1


def test_gpqa_options_follow_the_seed_and_its_parts_are_reported(data: Path) -> None:
    bench = BENCHMARKS["gpqa"]
    orders = {tuple(item.row["choices"]) for seed in range(20) for item in bench.load(data, seed=seed)[:1]}
    assert len(orders) > 10
    items = bench.load(data)
    assert [item.group for item in items] == ["main", "diamond", "extended"]
    for item in items:
        assert item.row["choices"]["ABCD".index(item.targets[0])] == f"right {item.id}"
    replies = {item.id: Reply(f"The answer is ({item.targets[0] if item.id != 'rec1' else 'Z'}).") for item in items}
    result = bench.summarise(bench.score(items, replies))
    values = {name: round(entry["value"], 6) for name, entry in result["groups"].items()}
    assert values == {"extended": round(200 / 3, 6), "main": 50.0, "diamond": 100.0}
    assert [entry["n"] for entry in result["groups"].values()] == [3, 2, 1]


def test_gpqa_texts_are_sealed_and_read_back() -> None:
    text = "Which one? \u2028 \ud83d\ude00 \udc80"
    assert seal(text).startswith("sealed:")
    assert "Which" not in seal(text)
    assert unseal(seal(text)) == text
    assert unseal("plain") == "plain"
    assert seal(seal(text)) == seal(text)


def test_gpqa_from_the_encrypted_archive(data_folder: Path) -> None:
    items = BENCHMARKS["gpqa"].load(data_folder)
    assert len(items) == 546
    assert [sum(item.group in groups for item in items) for groups in (("main", "diamond"), ("diamond",))] == [448, 198]
    assert sum(len(item.row["choices"]) == 4 for item in items) == 546
    assert {item.targets[0] for item in items} == set("ABCD")


def test_arc_lists_every_option_and_turns_digits_into_letters(data: Path) -> None:
    bench = BENCHMARKS["arc_challenge"]
    item = item_of(bench, data, "Q_2")
    assert item.targets == ("B",)
    prompt = bench.prompt(item, chat=True, shots=0)
    assert prompt.messages[0].content.startswith(
        "Given the following question and five candidate answers (A, B, C, D and E)"
    )
    assert "\nE. Oil\n" in prompt.messages[0].content
    assert prompt.messages[0].content.endswith("where the [the_answer_letter] is one of A, B, C, D or E.")
    assert prompt.prefix == "The best answer is"
    assert bench.prompt(item, chat=False, shots=0).text.endswith("or E. The best answer is")
    assert bench.options(item)[1] == ("Question: What do plants need?\nAnswer:", " Light")


def test_arc_by_likelihood(data: Path) -> None:
    bench = BENCHMARKS["arc_challenge"]
    item = item_of(bench, data, "Q_1")  # Heat, Cold, Dark, Noise
    record = bench.score([item], {"Q_1": Reply(" A.", likelihoods=(-4.1, -5.0, -5.0, -4.0))})[0]
    assert record.scores["accuracy"] == 1
    assert record.scores["accuracy_lm_eval"] == 1
    assert record.scores["accuracy_likelihood"] == 0  # the last is likeliest
    assert record.scores["accuracy_likelihood_norm"] == 0  # −4.1/4 against −4.0/5
    without = bench.summarise(bench.score([item], {"Q_1": Reply(" A.")}))
    assert list(without["metrics"]) == ["accuracy", "accuracy_lm_eval"]


# --- InFoBench, DialogSum, FLORES -----------------------------------------------------------------------------------


def test_infobench_numbers(data: Path) -> None:
    bench = BENCHMARKS["infobench"]
    items = bench.load(data)
    replies = {
        "easy_1": Reply("Hello", judgements=("yes", None)),
        "hard_1": Reply("3", judgements=("yes", "yes", "no")),
    }
    result = bench.summarise(bench.score(items, replies))
    assert (result["n"], result["questions"], result["unscored"]) == (2, 5, 1)
    assert {name: entry["value"] for name, entry in result["metrics"].items()} == {
        "drfr": pytest.approx(75.0),
        "drfr_easy": pytest.approx(100.0),
        "drfr_hard": pytest.approx(200 / 3),
    }
    assert result["groups"]["Content"]["value"] == pytest.approx(50.0)
    assert result["groups"]["Format"]["value"] == pytest.approx(100.0)
    assert result["groups"]["Content"]["unscored"] == 1
    assert (result["groups"]["Mail"]["value"], result["groups"]["Mail"]["questions"]) == (100.0, 2)
    assert result["groups"]["Hard_set"]["value"] == pytest.approx(200 / 3)
    assert bench.prompt(items[1], chat=True, shots=0).messages[0].content == "Add the numbers.\n\n1 2"


def test_infobench_without_a_judge_is_unscored(data: Path) -> None:
    bench = BENCHMARKS["infobench"]
    result = bench.summarise(bench.score(bench.load(data), {"easy_1": Reply("Hello")}))
    assert (result["n"], result["unscored"], result["metrics"]["drfr"]["value"]) == (1, 2, None)


def test_infobench_wants_a_judgement_a_question(data: Path) -> None:
    with pytest.raises(TutelageError, match="`easy_1` has 2 questions but 1 judgements"):
        BENCHMARKS["infobench"].score(BENCHMARKS["infobench"].load(data), {"easy_1": Reply("", judgements=("yes",))})


def test_dialogsum_scores_three_references(data: Path) -> None:
    record = scored("dialogsum", data, "test_0", "They greet.")
    # F of "they greet" with: itself, "two people greet", "a short talk"
    values = [1.0, 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), 0.0]
    assert record.scores["rouge_l"] == pytest.approx(sum(values) / 3)
    assert record.scores["rouge_l_best"] == 1
    assert scored("dialogsum", data, "test_0", "").scores["rouge_l"] == 0


def test_flores_is_a_corpus_score_with_its_parts(data: Path) -> None:
    from sacrebleu.metrics.chrf import CHRF

    bench = BENCHMARKS["flores"]
    items = bench.load(data)
    replies = {"0": Reply("Assam is green."), "1": Reply("Coffee grows here."), "2": Reply("")}
    records = bench.score(items, replies)
    result = bench.summarise(records)
    texts, references = [reply.text for reply in replies.values()], [[item.targets[0] for item in items]]
    assert result["metrics"]["chrf"]["value"] == pytest.approx(CHRF().corpus_score(texts, references).score)
    assert "comet" not in result["metrics"]
    assert records[0].scores["chrf"] == pytest.approx(1.0)
    assert result["groups"]["dev"]["value"] == result["metrics"]["chrf"]["value"]
    assert corpus_chrf(records[:1])["stderr"] is None
    scored = bench.summarise(bench.score(items, {"0": Reply("x", comet=0.5), "1": Reply("y", comet=0.7)}))
    assert scored["metrics"]["comet"]["value"] == pytest.approx(60.0)
    assert scored["metrics"]["comet"]["stderr"] == pytest.approx(10.0)


def test_flores_bootstrap_error_is_near_the_jackknife(data: Path) -> None:
    """Two estimates of the same standard error agree within a fifth."""
    bench = BENCHMARKS["flores"]
    items = bench.load(data)
    many = [Item(str(k), "", items[k % 3].targets, {}) for k in range(90)]
    words = ["Assam", "is", "green", "tea", "river", "wide", "grows"]
    replies = {str(k): Reply(" ".join(words[(k * k + j) % 7] for j in range(k % 5))) for k in range(90)}
    records = bench.score(many, replies)
    found = corpus_chrf(records)
    left_out = [corpus_chrf_value(records[:k] + records[k + 1 :]) for k in range(90)]
    mean = sum(left_out) / 90
    jackknife = (89 / 90 * sum((value - mean) ** 2 for value in left_out)) ** 0.5
    assert found["stderr"] == pytest.approx(jackknife, rel=0.2)


def corpus_chrf_value(records: list[ExampleRecord]) -> float:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().corpus_score([r.response for r in records], [[r.references[0] for r in records]]).score


# --- data -----------------------------------------------------------------------------------------------------------


def test_real_data_have_the_published_sizes(data_folder: Path) -> None:
    sizes = {name: len(BENCHMARKS[name].load(data_folder)) for name in PAPER}
    assert sizes == {
        "bbh": 6511,
        "gpqa": 546,
        "ifeval": 541,
        "infobench": 500,
        "mmlu_pro": 12032,
        "flores": 1012,
        "dialogsum": 500,
        "arc_challenge": 1172,
    }
    questions = [len(item.targets) for item in BENCHMARKS["infobench"].load(data_folder)]
    assert sum(questions) == 2250


def test_every_gold_answer_is_found_and_right(data_folder: Path) -> None:
    """Stated plainly, the data's own answers all score 1."""
    for name in ("bbh", "mmlu_pro", "gpqa", "arc_challenge"):
        bench = BENCHMARKS[name]
        items = bench.load(data_folder, limit=400)
        replies = {item.id: Reply(f"I thought. So the answer is {item.targets[0]}.") for item in items}
        wrong = [record.id for record in bench.score(items, replies) if record.scores["accuracy"] != 1]
        assert wrong == [], name


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "ifeval/input_data.jsonl").unlink(), r"input_data.jsonl is missing: put the file there"),
        (lambda d: (d / "ifeval/input_data.jsonl").write_text('{"key": 1}\n'), r"input_data.jsonl:1: has no `prompt`"),
        (lambda d: (d / "ifeval/input_data.jsonl").write_text("\n{\n"), r"input_data.jsonl:2: not valid JSON"),
        (lambda d: (d / "ifeval/input_data.jsonl").write_text("[]\n"), r"input_data.jsonl:1: not an object"),
        (
            lambda d: (d / "ifeval/input_data.jsonl").write_text(
                2 * (json.dumps({"key": 1, "prompt": "", "instruction_id_list": [], "kwargs": []}) + "\n")
            ),
            "hold the id `1` twice",
        ),
    ],
)
def test_bad_data_are_named(tmp_path: Path, break_it, message: str) -> None:
    data = write_data(tmp_path)
    break_it(data)
    with pytest.raises(TutelageError, match=message) as raised:
        BENCHMARKS["ifeval"].load(data)
    assert "\n" not in str(raised.value)


def test_bad_archives_and_files_are_named(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    (data / "gpqa/dataset.zip").write_bytes(b"no archive")
    (data / "bbh/bbh/snarks.json").write_text("{}")
    with (data / "flores/devtest/eng_Latn.devtest").open("a") as handle:
        handle.write("one more\n")
    for name, message in [
        ("gpqa", r"gpqa_extended.csv cannot be read"),
        ("bbh", r"snarks.json: has no list `examples`"),
        ("flores", "3 Assamese lines but 4 English ones"),
    ]:
        with pytest.raises(TutelageError, match=message):
            benchmark(name).load(data)


def test_the_hub_is_asked_by_name_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict]:
        asked.append((name, config, split))
        rows = [{"id": f"test_0_{k}", "dialogue": "Hi.", "summary": f"summary {k}"} for k in (1, 2, 3)]
        return rows if name == "knkarthick/dialogsum" else []

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items = BENCHMARKS["dialogsum"].load(None)
    assert [(item.id, item.targets) for item in items] == [("test_0", ("summary 1", "summary 2", "summary 3"))]
    BENCHMARKS["ifeval"].load(None)
    BENCHMARKS["gpqa_diamond"].load(None)
    assert asked == [
        ("knkarthick/dialogsum", None, "test"),
        ("google/IFEval", None, "train"),
        ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    ]
