"""Tokens and loss masks with tiny tokenizers trained here, and the templates of the usual model families."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from chat_templates import CHATML, LLAMA3, MULTI, OPEN_THOUGHT, TEXTS, chat, tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message
from tutelage.data.chat_template import ChatTemplate, PromptTooLongError
from tutelage.data.dataset import LoadedData
from tutelage.data.encode_rows import encode_all, messages_asked

PLAIN = (  # does not end turns
    "{% for m in messages %}{{ '### ' + m.role + '\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)
THINKING = (  # like Qwen3: an empty thought before the last assistant turn, removed when another turn follows
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}[thought]\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def text_with_loss(template: ChatTemplate, conversation: Conversation, max_length: int = 10_000) -> str:
    """The text of the tokens that carry loss."""
    sequence = template.encode(conversation, 0, max_length)
    return template.tokenizer.decode(sequence.ids[sequence.loss_mask])


# --- templates -----------------------------------------------------------------------------------------------------


def test_tulus_template_is_the_fallback() -> None:
    template = ChatTemplate(tokenizer(eos="</s>"))
    messages = chat("a", "b", "c", system="s").messages
    assert template.render(messages, True) == (
        "<|system|>\ns\n<|user|>\na\n<|assistant|>\nb</s>\n<|user|>\nc\n<|assistant|>\n"
    )
    assert template.render(messages[:3], False) == "<|system|>\ns\n<|user|>\na\n<|assistant|>\nb</s>"
    assert template.end_of_turn_ids == (template.tokenizer.convert_tokens_to_ids("</s>"),)
    named = ChatTemplate(tokenizer(CHATML, eos="</s>"), "tulu")
    assert named.render(messages, True) == template.render(messages, True)


def test_tulus_template_begins_with_bos_only_if_the_tokenizer_does() -> None:
    plain = tokenizer(eos="</s>", bos="<|begin|>")
    assert ChatTemplate(plain).render(chat("a").messages, False) == "<|user|>\na\n"
    begin = plain.convert_tokens_to_ids("<|begin|>")
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    assert ChatTemplate(plain).render(chat("a").messages, False) == "<|begin|><|user|>\na\n"
    assert ChatTemplate(plain).encode_prompt(chat("a").messages).count(begin) == 1


def test_a_file_precedes_the_tokenizers_template_and_that_precedes_tulu(tmp_path: Path) -> None:
    assert ChatTemplate(tokenizer(CHATML)).render(chat("a").messages, False) == "<|im_start|>user\na<|im_end|>\n"
    file = tmp_path / "mine.jinja"
    file.write_text(PLAIN)
    assert ChatTemplate(tokenizer(CHATML), str(file)).render(chat("a").messages, False) == "### user\na\n\n"
    with pytest.raises(TutelageError, match=r"chat_template: cannot read `nowhere\.jinja`.*auto, tulu or the path"):
        ChatTemplate(tokenizer(CHATML), "nowhere.jinja")


def test_dates_in_templates_are_fixed() -> None:
    dated = "{{ strftime_now('%Y-%m-%d') }} {{ date_string }}" + CHATML
    assert (
        ChatTemplate(tokenizer(dated))
        .render(chat("a").messages, False)
        .startswith("2024-07-26 26 Jul 2024<|im_start|>")
    )


def test_a_template_that_raises_gives_a_one_line_error() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system\nturn') }}{% endif %}" + CHATML
    template = ChatTemplate(tokenizer(refusing))
    with pytest.raises(
        TutelageError, match=r"cannot render 2 turns \(system, user\): no system turn; .*`chat_template`"
    ):
        template.encode_prompt(chat("a", system="s").messages)


# --- token-exact loss masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "end", "expected"),
    [
        (CHATML, "<|im_end|>", "\n\nThe dog ran.<|im_end|>3\n<|im_end|>Fine, thank you.<|im_end|>"),
        (None, "</s>", "\n\nThe dog ran.</s>3\n</s>Fine, thank you.</s>"),
        (LLAMA3, "<|eot|>", "The dog ran.<|eot|>3<|eot|>Fine, thank you.<|eot|>"),  # this template trims
        (PLAIN, "</s>", "\n\nThe dog ran.</s>3\n</s>Fine, thank you.</s>"),
    ],
    ids=["chatml", "tulu", "llama3", "plain"],
)
def test_every_assistant_turn_carries_loss_up_to_its_end(form: str | None, end: str, expected: str) -> None:
    template = ChatTemplate(tokenizer(form, eos="</s>"))
    assert text_with_loss(template, MULTI) == expected
    sequence = template.encode(MULTI, 7, 10_000)
    end_id = template.tokenizer.convert_tokens_to_ids(end)
    assert template.end_of_turn_id == end_id
    assert (sequence.index, sequence.author, sequence.cut) == (7, "data", False)
    assert (sequence.ids.dtype, sequence.loss_mask.dtype) == (torch.int64, torch.bool)
    assert sequence.ids[-1] == end_id
    assert sequence.loss_mask[-1]
    assert sequence.response_tokens == int(sequence.loss_mask.sum())
    # the whole text occurs once
    text = template.render(MULTI.messages, False)
    whole = template.tokenizer.decode(sequence.ids)
    if form == PLAIN:
        whole = whole.replace("</s>", "") + "\n\n"
    assert whole == text.removesuffix("\n") if form == CHATML else whole == text


@pytest.mark.parametrize(("form", "eos"), [(CHATML, "<|im_end|>"), (CHATML, "</s>"), (PLAIN, "</s>")])
def test_plain_text_carries_loss_and_gets_no_template(form: str, eos: str) -> None:
    text = Conversation("x", (Message("assistant", "The cat sat on the mat."),), source="x")
    template = ChatTemplate(tokenizer(form, eos=eos))
    row = template.encode(text, 0, 10_000)
    assert template.tokenizer.decode(row.ids) == "The cat sat on the mat." + eos
    assert row.loss_mask.tolist() == [False] + [True] * (len(row.ids) - 1)
    cut = template.encode(text, 0, 4)
    assert cut.cut
    assert torch.equal(cut.ids, row.ids[:4])
    begins = tokenizer(form, eos=eos, bos="<|begin|>")
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begins.bos_token_id)]
    )
    row = ChatTemplate(begins).encode(text, 0, 10_000)
    assert begins.decode(row.ids) == "<|begin|>The cat sat on the mat." + eos
    assert row.loss_mask.tolist() == [False] + [True] * (len(row.ids) - 1)


@pytest.mark.parametrize("form", [CHATML, None, LLAMA3, PLAIN], ids=["chatml", "tulu", "llama3", "plain"])
def test_a_sampled_response_continues_the_prompt_of_training(form: str | None) -> None:
    template = ChatTemplate(tokenizer(form, eos="</s>"))
    for turns in (2, 4, 6):
        part = Conversation("x", MULTI.messages[: turns + 1])
        sequence = template.encode(part, 0, 10_000)
        assert sequence.ids[: sequence.prompt_length].tolist() == template.encode_prompt(part.prompt)
        assert sequence.loss_mask[sequence.prompt_length :].all()
        assert not sequence.loss_mask[sequence.prompt_length - 1]
    # the longer conversation begins with the tokens of the shorter one
    short, long = (template.encode(Conversation("x", MULTI.messages[:n]), 0, 10_000).ids for n in (3, 5))
    assert long[: len(short)].tolist() == short.tolist()


def test_tokens_do_not_merge_across_prompt_and_response() -> None:
    template = ChatTemplate(tokenizer(None, eos="</s>"))
    row = chat("The cat?", "\n\nThe dog ran.")
    merged = template.tokenizer(template.render(row.messages, False), add_special_tokens=False)["input_ids"]
    sequence = template.encode(row, 0, 10_000)
    # tokenised as one text, the prompt's last line break and the response's first become one token
    assert merged != sequence.ids.tolist()
    assert template.tokenizer.decode(merged) == template.tokenizer.decode(sequence.ids)
    assert merged[: sequence.prompt_length] != template.encode_prompt(row.prompt)
    assert template.tokenizer.decode(sequence.ids[: sequence.prompt_length]) == template.render(row.prompt, True)


def test_no_loss_on_what_follows_the_end_token() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    sequence = template.encode(chat("a", "b", "c", "d"), 0, 10_000)
    end = (sequence.ids == template.end_of_turn_id).nonzero().flatten().tolist()
    assert len(end) == 4
    assert sequence.loss_mask[end].tolist() == [False, True, False, True]  # the ends of user turns carry no loss
    assert not sequence.loss_mask[end[1] + 1]  # ChatML's line break
    assert end[3] == len(sequence.ids) - 1  # nothing follows the last end token


def test_tokenizers_that_put_a_space_before_every_text() -> None:
    """As in Llama 2: a response must not begin with a space that the data does not have."""
    inner = Tokenizer(models.BPE(byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        initial_alphabet=list(map(chr, range(33, 127))),
        special_tokens=["</s>", "<0x0A>"],  # a line break is a byte token, as in Llama 2
        show_progress=False,
    )
    inner.train_from_iterator([text.replace("\n", " ") for text in TEXTS], trainer)
    template = ChatTemplate(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>"))
    row = chat("The cat?", "The dog")
    sequence = template.encode(row, 0, 1000)
    tokens = template.tokenizer.convert_ids_to_tokens(sequence.ids[sequence.prompt_length :].tolist())
    assert "".join(tokens) == "The\u2581dog</s>"
    assert template.decode(sequence.ids[sequence.prompt_length :]) == "The dog"
    assert sequence.ids[: sequence.prompt_length].tolist() == template.encode_prompt(row.prompt)


def test_generation_prompt_that_differs_from_the_rendered_turn() -> None:
    """A template that begins a thought only in the generation prompt: the response still follows that prompt."""
    template = ChatTemplate(tokenizer(OPEN_THOUGHT))
    row = chat("a", "b[/think]c")
    sequence = template.encode(row, 0, 1000)
    assert (
        template.tokenizer.decode(sequence.ids)
        == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[think]b[/think]c<|im_end|>"
    )
    assert text_with_loss(template, row) == "b[/think]c<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_gives_a_sequence_per_turn() -> None:
    template = ChatTemplate(tokenizer(THINKING))
    assert text_with_loss(template, chat("a", "b")) == "[thought]\nb<|im_end|>"
    rows = chat("a", "b", "c", "d")
    (first, second), report = encode_all(template, loaded(rows), 1000)
    assert (first.index, first.part, first.turns, second.index, second.part, second.turns) == (0, 0, (1,), 0, 1, (3,))
    for sequence, asked in ((first, rows.messages[:1]), (second, rows.messages[:3])):
        assert messages_asked(rows, sequence) == asked
        assert sequence.ids[: sequence.prompt_length].tolist() == template.encode_prompt(asked)
        assert template.decode(sequence.ids[: sequence.prompt_length]) == template.decode(
            template.tokenizer(template.render(asked, True))["input_ids"]
        )
        assert sequence.loss_mask.tolist() == [i >= sequence.prompt_length for i in range(len(sequence.ids))]
    learnt = [template.tokenizer.decode(s.ids[s.loss_mask]) for s in (first, second)]
    assert learnt == ["[thought]\nb<|im_end|>", "[thought]\nd<|im_end|>"]
    assert "[thought]" not in template.tokenizer.decode(second.ids[: second.prompt_length])
    assert (report.split, report.left_out) == ((1, 2), {})


def test_a_prompt_after_rewritten_turns_is_the_templates_own_text() -> None:
    template = ChatTemplate(tokenizer(THINKING))
    prompt = chat("a", "b", "c").messages
    assert template.tokenizer.decode(template.encode_prompt(prompt)) == template.render(prompt, True)


def test_bare_prompts_cannot_be_encoded_and_replies_are_not_prompts() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    with pytest.raises(TutelageError, match=r"x\.jsonl:1: no reply"):
        template.encode(chat("a"), 0, 100)
    with pytest.raises(TutelageError, match="must end in a user turn"):
        template.encode_prompt(chat("a", "b").messages)


# --- the length limit ----------------------------------------------------------------------------------------------


def test_many_prompts_at_once_equal_one_at_a_time() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    prompts = [chat("a").messages, MULTI.prompt, chat("\n\n", system="s").messages]
    assert template.encode_prompts(prompts) == [template.encode_prompt(prompt) for prompt in prompts]
    assert template.encode_prompts([]) == []


def test_over_long_rows_lose_the_end_of_the_response() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    row = chat("The cat?", "The dog ran after the cat, 1 2 3 xyz")
    whole = template.encode(row, 0, 10_000)
    prompt = whole.prompt_length
    for limit in (prompt + 1, prompt + 4, len(whole.ids) - 1):
        sequence = template.encode(row, 0, limit)
        assert sequence.ids.tolist() == whole.ids[:limit].tolist()
        assert (sequence.cut, sequence.prompt_length, sequence.response_tokens) == (True, prompt, limit - prompt)
    assert not template.encode(row, 0, len(whole.ids)).cut


def test_a_prompt_that_fills_the_limit_is_an_error() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    row = chat("The cat? " * 50, "Fine", source="big.jsonl:9")
    prompt = len(template.encode_prompt(row.prompt))
    expected = (
        f"big.jsonl:9: prompt has {prompt} tokens, max_length is {prompt}: drop the row, or raise training.max_length "
        "if the model reads more"
    )
    with pytest.raises(PromptTooLongError) as caught:
        template.encode(row, 0, prompt)
    assert str(caught.value) == expected
    assert template.encode(row, 0, prompt + 1).response_tokens == 1


def test_over_long_chats_lose_whole_later_turns() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    first = template.encode(chat("a", "b"), 0, 1000)
    row = chat("a", "b", "The cat? " * 50, "d")
    sequence = template.encode(row, 0, 100)
    assert sequence.ids.tolist() == first.ids.tolist()
    assert (sequence.cut, sequence.prompt_length, sequence.loss_mask.tolist()) == (
        True,
        first.prompt_length,
        first.loss_mask.tolist(),
    )


# --- ends of turns -------------------------------------------------------------------------------------------------


def ids_of(template: ChatTemplate, *tokens: str) -> tuple[int, ...]:
    return tuple(template.tokenizer.convert_tokens_to_ids(list(tokens)))


def test_end_ids_are_the_templates_then_eos_then_the_generation_configs() -> None:
    tok = tokenizer(LLAMA3, eos="</s>")
    extra = tok.convert_tokens_to_ids(["</s>", "<|eot|>", "<|im_end|>"])
    template = ChatTemplate(tok, generation_eos=extra)
    assert template.end_of_turn_ids == ids_of(template, "<|eot|>", "</s>", "<|im_end|>")


def test_an_eos_that_starts_turns_is_not_an_end() -> None:
    start = tokenizer().convert_tokens_to_ids("<|im_start|>")
    template = ChatTemplate(tokenizer(CHATML, eos="<|im_start|>"), generation_eos=[start])
    assert template.end_of_turn_ids == ids_of(template, "<|im_end|>")
    with pytest.raises(TutelageError, match=r"nothing ends an assistant turn.*set `chat_template`"):
        ChatTemplate(tokenizer(CHATML.replace("<|im_end|>", ""), eos="<|im_start|>"))


def test_a_default_system_turn_does_not_hide_the_end() -> None:
    with_system = "{% if messages[0].role != 'system' %}<|im_start|>system\nHello<|im_end|>\n{% endif %}" + CHATML
    template = ChatTemplate(tokenizer(with_system, eos="<|im_start|>"))
    assert template.end_of_turn_ids == ids_of(template, "<|im_end|>")


def test_an_end_of_text_after_closed_chats_carries_no_loss() -> None:
    """The first Llama 3 template wrote `<|end_of_text|>` after a chat without a generation prompt."""
    closing = LLAMA3.replace("{% endif %}", "{% else %}</s>{% endif %}")
    template = ChatTemplate(tokenizer(closing, eos="</s>"))
    assert template.end_of_turn_ids == ids_of(template, "<|eot|>", "</s>")
    assert text_with_loss(template, chat("a", "b", "c", "d")) == "b<|eot|>d<|eot|>"


def test_decode_drops_ends_and_special_tokens_and_keeps_the_text() -> None:
    template = ChatTemplate(tokenizer(LLAMA3, eos="</s>"))
    text = " Fine , thank you .\n"  # spaces before punctuation must be kept
    ids = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert template.decode([*ids, *ids_of(template, "<|eot|>", "</s>", "<|begin|>")]) == text
    assert template.decode(torch.tensor(ids)) == text


# --- fingerprint and whole sets --------------------------------------------------------------------------------------


def test_fingerprint_follows_template_and_vocabulary_not_the_latest_call() -> None:
    base = ChatTemplate(tokenizer(CHATML)).fingerprint
    used = tokenizer(CHATML)
    used("The cat sat", truncation=True, max_length=2)  # leaves its state in the tokenizer
    assert '"truncation":null' not in used.backend_tokenizer.to_str()
    assert ChatTemplate(used).fingerprint == base
    assert ChatTemplate(tokenizer(CHATML + " ")).fingerprint != base
    assert ChatTemplate(tokenizer(CHATML, eos="</s>")).fingerprint != base
    larger = tokenizer(CHATML)
    larger.add_tokens(["newword"])
    assert ChatTemplate(larger).fingerprint != base


def loaded(*rows: Conversation) -> LoadedData:
    return LoadedData(rows, (), len(rows), "f")


def test_encode_all_equals_encode_per_row_and_counts() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    rows = [chat("a", "b " * n, source=f"x.jsonl:{n}") for n in range(1, 60)]
    sequences, report = encode_all(template, loaded(*rows), 60)
    assert [s.index for s in sequences] == list(range(59))
    for sequence, row in zip(sequences, rows, strict=True):
        alone = template.encode(row, sequence.index, 60)
        assert sequence.ids.tolist() == alone.ids.tolist()
        assert sequence.loss_mask.tolist() == alone.loss_mask.tolist()
    assert report.cut == sum(len(template.encode(row, 0, 999).ids) > 60 for row in rows) > 0
    assert report.too_long == ()


def test_encode_all_lists_prompts_that_are_too_long() -> None:
    template = ChatTemplate(tokenizer(CHATML))
    rows = [chat("a", "b", source=f"x.jsonl:{n}") for n in range(1, 10)]
    rows[3] = dataclasses.replace(chat("The cat? " * 50, "b"), source="x.jsonl:4")
    sequences, report = encode_all(template, loaded(*rows), 60, max_bad_rows=0.2)
    assert [s.index for s in sequences] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert report.too_long == ("x.jsonl:4",)
    with pytest.raises(
        TutelageError, match=r"^data\.gold: 1 of 9 rows are bad \(11\.1%.*x\.jsonl:4: prompt has \d+ tokens"
    ):
        encode_all(template, loaded(*rows), 60, key="data.gold")
    with pytest.raises(TutelageError, match=r"^data: no row fits: x\.jsonl:4: prompt has"):
        encode_all(template, loaded(rows[3]), 60, max_bad_rows=1.0)
