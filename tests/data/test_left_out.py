"""What rows carry is rendered and learnt, or counted and said: never dropped without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from chat_rows import assistant, load, row, system, user, write
from chat_templates import CHATML, tokenizer
from look_alikes import LOOK_ALIKES, tokenizer_of

from tutelage.common.errors import TutelageError
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.encode_rows import EncodingReport, encode_all, notes, prompt_notes
from tutelage.data.teacher_prompts import align, teacher_view

TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]
CALLING = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "tide", "arguments": {"p": 1}}}]}
TOOL_ROW = {
    "tools": TOOLS,
    "messages": [user("How high?"), CALLING, {"role": "tool", "content": "3 m"}, assistant("3")],
}
DEAF = "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # fmt: skip # noqa: E501
NOT_WRITTEN = "(not written by the chat template)"


def encoded(folder: Path, template: ChatTemplate, *rows: Any, **config: Any) -> tuple[list[str], EncodingReport]:
    """The texts that are learnt, one per sequence, and the report."""
    write(folder / "x.jsonl", *rows)
    sequences, report = encode_all(template, load(folder, **config), 10_000, 0.5, "data.gold")
    return [template.tokenizer.decode(one.ids[one.loss_mask]) for one in sequences], report


def test_tools_and_their_results_are_read_and_calls_are_learnt(tmp_path: Path) -> None:
    template = ChatTemplate(tokenizer_of(LOOK_ALIKES["qwen 2 5"]))
    (learnt,), report = encoded(tmp_path, template, TOOL_ROW)
    assert learnt == '<tool_call>\n{"name": "tide", "arguments": {"p": 1}}\n</tool_call><|im_end|>3<|im_end|>'
    assert (report.left_out, report.rendered) == ({}, {"`tool_calls`": 1, "`tools`": 1})
    (sequence,), _ = encode_all(template, load(tmp_path), 10_000)
    read = template.tokenizer.decode(sequence.ids[~sequence.loss_mask])
    assert "3 m" in read
    assert '"parameters"' in read


def test_what_a_template_does_not_write_is_counted(tmp_path: Path) -> None:
    thought = {**assistant("1"), "reasoning": "hm, hm"}
    rows = [TOOL_ROW, {"messages": [system("Be brief"), user("q"), thought]}, {"messages": [user("q"), thought]}]
    _, report = encoded(tmp_path, ChatTemplate(tokenizer(DEAF)), *rows)
    assert report.left_out == {
        f"`reasoning` {NOT_WRITTEN}": 2,
        f"`tool_calls` {NOT_WRITTEN}": 1,
        f"`tools` {NOT_WRITTEN}": 1,
        f"system turns {NOT_WRITTEN}": 1,
        f"tool turns {NOT_WRITTEN}": 1,
    }
    (line,) = notes(report)
    assert line.startswith(f"left out or changed: `reasoning` {NOT_WRITTEN} in 2 rows (x.jsonl:2, x.jsonl:3); ")
    assert "\n" not in line
    assert prompt_notes(ChatTemplate(tokenizer(DEAF)), load(tmp_path).conversations) == [
        f"left out or changed: `tool_calls` {NOT_WRITTEN} in 1 row (x.jsonl:1); `tools` {NOT_WRITTEN} in 1 row "
        f"(x.jsonl:1); system turns {NOT_WRITTEN} in 1 row (x.jsonl:2); tool turns {NOT_WRITTEN} in 1 row (x.jsonl:1)"
    ]
    assert notes(encoded(tmp_path, ChatTemplate(tokenizer(CHATML)), row(1))[1]) == []


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("name", ["qwen 3", "qwen 3 5", "gpt oss"])
def test_a_thought_in_any_key_is_learnt(tmp_path: Path, name: str, key: str) -> None:
    template = ChatTemplate(tokenizer_of(LOOK_ALIKES[name]))
    turns = [user("q"), {**assistant("one"), key: "first thought"}, user("r"), {**assistant("two"), key: "second"}]
    learnt, report = encoded(tmp_path, template, {"messages": turns})
    assert ["first thought" in learnt[0], "second" in learnt[-1]] == [True, True]
    assert (report.left_out, report.rendered) == ({}, {f"`{key}`": 1})


def test_thoughts_that_a_template_cuts_out_are_counted(tmp_path: Path) -> None:
    cutting = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    turns = [user("q"), assistant("<think>\nlong\n</think>\n\nshort")]
    learnt, report = encoded(tmp_path, ChatTemplate(tokenizer(cutting)), {"messages": turns})
    assert "long" not in learnt[0]
    assert report.left_out == {f"thoughts {NOT_WRITTEN}": 1}
    off = ChatTemplate(tokenizer_of(LOOK_ALIKES["qwen 3"]), thinking=False)
    learnt, report = encoded(tmp_path, off, {"messages": turns})
    assert (learnt, report.left_out) == (["short<|im_end|>"], {f"thoughts {NOT_WRITTEN}": 1})


def test_flags_take_the_loss_from_turns(tmp_path: Path) -> None:
    turns = [user("q"), {**assistant("one"), "weight": 0}, user("r"), {**assistant("two"), "weight": 1}]
    more = [user("q"), assistant("three"), user("r"), {**assistant("four"), "train": False}]
    template = ChatTemplate(tokenizer(CHATML))
    learnt, report = encoded(tmp_path, template, {"messages": turns}, {"messages": more})
    assert learnt == ["two<|im_end|>", "three<|im_end|>"]
    assert report.left_out == {
        "assistant turns with `weight: 0` or `train: false` (no loss)": 1,
        "turns after the last one that carries loss (not used)": 1,
    }
    first, second = encode_all(template, load(tmp_path), 10_000)[0]
    assert (first.turns, second.turns) == ((3,), (1,))
    conversation = load(tmp_path).conversations[0]
    assert first.ids[: first.prompt_length].tolist() == template.encode_prompt(conversation.messages[:3])
    assert "one" in template.tokenizer.decode(first.ids)


def test_unknown_keys_and_columns_are_named_with_their_number(tmp_path: Path) -> None:
    turns = [user("q"), {**assistant("a"), "mood": "good", "name": None}]
    rows = [
        {"messages": turns, "system": "Be brief"},
        {"messages": turns, "system": None},
        row(3, system="x", note="y"),
    ]
    _, report = encoded(tmp_path, ChatTemplate(tokenizer(CHATML)), *rows)
    assert report.left_out == {"column `system` (not read)": 2, "key `mood` of a message (not read)": 2}
    _, report = encoded(tmp_path, ChatTemplate(tokenizer(CHATML)), *rows, system="{?{system}?}")
    assert report.left_out == {"key `mood` of a message (not read)": 2}


def test_rows_that_a_template_refuses_are_bad_rows(tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    rows = [row(1), {"messages": [system("s"), user("q"), assistant("a")]}, row(3)]
    learnt, report = encoded(tmp_path, ChatTemplate(tokenizer(refusing)), *rows)
    assert learnt == ["a1<|im_end|>", "a3<|im_end|>"]
    assert [(bad.source, "no system" in bad.reason) for bad in report.refused] == [("x.jsonl:2", True)]
    with pytest.raises(
        TutelageError, match=r"^data\.gold: 1 of 3 rows are bad \(33\.3%, allowed 1\.0%\): x\.jsonl:2: "
    ):
        encode_all(ChatTemplate(tokenizer(refusing)), load(tmp_path), 100, 0.01, "data.gold")
    data = load(tmp_path)
    prompts, sources = zip(*[(c.prompt, c.source) for c in data.conversations], strict=True)
    with pytest.raises(TutelageError, match=r"^x\.jsonl:2: the chat template cannot render 2 turns"):
        ChatTemplate(tokenizer(refusing)).encode_prompts(prompts, sources)
    sequences, _ = encode_all(ChatTemplate(tokenizer(CHATML)), data, 100)
    bad: list[Any] = []
    kept = align(sequences, data.conversations, ChatTemplate(tokenizer(CHATML)), ChatTemplate(tokenizer(refusing)), bad)
    assert ([one.index for one in kept], [one.source for one in bad]) == ([0, 2], ["x.jsonl:2"])


def test_a_teacher_that_rewrites_earlier_turns_reads_one_sequence_per_turn(tmp_path: Path) -> None:
    student, teacher = ChatTemplate(tokenizer(CHATML)), ChatTemplate(tokenizer(LOOK_ALIKES["qwen 3"]))
    write(
        tmp_path / "x.jsonl",
        row(0),
        {"messages": [user("q"), assistant("a"), user("r"), assistant("b"), user("s"), assistant("c")]},
    )
    conversations = load(tmp_path).conversations
    whole, _ = encode_all(student, load(tmp_path), 10_000)
    split = align(whole, conversations, student, teacher)
    assert [(one.index, one.part, one.turns) for one in split] == [
        (0, 0, (1,)),
        (1, 0, (1,)),
        (1, 1, (3,)),
        (1, 2, (5,)),
    ]
    for one in split:
        messages = conversations[one.index].messages[: one.turns[-1]]
        view = teacher_view(one)
        assert view.ids[: view.prompt_length].tolist() == teacher.encode_prompt(messages)
        assert one.ids[: one.prompt_length].tolist() == student.encode_prompt(messages)
        assert view.ids[view.loss_mask].tolist() == one.ids[one.loss_mask].tolist()
    learnt = [one.ids[one.loss_mask] for one in split]
    assert torch.equal(torch.cat(learnt[1:]), whole[1].ids[whole[1].loss_mask])


def test_a_byte_order_mark_in_a_template_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "form.jinja").write_text(CHATML, encoding="utf-8-sig")
    assert ChatTemplate(tokenizer(None), str(tmp_path / "form.jinja")).text == CHATML


def test_labels_that_nothing_reads_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "a", "label": False}, {"prompt": "b", "completion": "c", "label": True}]
    _, report = encoded(tmp_path, ChatTemplate(tokenizer()), *rows)
    assert report.left_out == {"column `label` (not read)": 2}


@pytest.mark.parametrize("trained", [True, False])
def test_empty_cells_are_told_with_their_lines(tmp_path: Path, trained: bool) -> None:
    """Not a column that stands between `{?` and `?}`, nor one that is the whole template."""
    cells = [("", "q1"), ("shipping", ""), (" ", "q3"), ("billing", "q4"), *[("", "q5")] * 2]
    rows = [{"kind": kind, "note": "", "q": question, "a": "yes"} for kind, question in cells]
    template = ChatTemplate(tokenizer(CHATML))
    keys = {"prompt": "{kind}: {q}{? ({note})?}", "completion": "{a}"}
    _, report = encoded(tmp_path, template, *rows, **keys)
    gap = "is empty, and the template's text around it stays (write both between `{?` and `?}`)"
    assert report.left_out == {f"column `kind` {gap}": 4, f"column `q` {gap}": 1}
    rows_of = load(tmp_path, **keys)
    (line,) = notes(report) if trained else prompt_notes(template, rows_of.conversations)
    assert line == (
        f"left out or changed: column `kind` {gap} in 4 rows (x.jsonl:1, x.jsonl:3, x.jsonl:5, x.jsonl:6); "
        f"column `q` {gap} in 1 row (x.jsonl:2)"
    )
    _, report = encoded(tmp_path, template, *rows, prompt="{q}", completion="{a}", max_bad_rows=0.5)
    assert notes(report) == []  # nothing of `kind` and `note`; the empty question is a bad row
