"""Chat templates that people use: prompts are the tokenizer's own, each turn is learnt once and whole, ends right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from look_alikes import LOOK_ALIKES, published, tokenizer_of

from tutelage.common.errors import TutelageError
from tutelage.common.types import Conversation, Message, TokenSequence
from tutelage.data.chat_template import ChatTemplate, RenderError
from tutelage.data.left_out import left_out

ALL = LOOK_ALIKES | published()
IN_PARTS = {"trl idefics3", "trl smolvlm", "trl llava_next"}  # read only lists of parts, as models that see do
# These read a thought in a key of its own, and would take one in the content for a part of the answer.
APART = {"gpt oss"} | {f"trl {n}" for n in ("gptoss", "qwen3_8", "gemma4_v5", "diffusion_gemma", "muse_glimmer")}
USER = [Message("user", text) for text in ("The cat?", "And then?", "1 2")]
TOOLS = ({"type": "function", "function": {"name": "tide", "description": "d", "parameters": {"type": "object"}}},)
CALL = {"tool_calls": [{"type": "function", "function": {"name": "tide", "arguments": {"port": "p0"}}}]}
THOUGHTS = [Message("assistant", f"<think>\nit is {a}\n</think>\n\n{a}") for a in ("red", "blue")]
ROWS = {
    "one turn": [USER[0], Message("assistant", "The dog ran.")],
    "three turns": [m for u, a in zip(USER, "abc", strict=True) for m in (u, Message("assistant", f"answer {a}"))],
    "system": [Message("system", "Be brief."), USER[0], Message("assistant", "Fine.")],
    "thoughts": [USER[0], THOUGHTS[0], USER[1], THOUGHTS[1]],
    "tools": [
        Message("user", "How high?", tools=TOOLS),
        Message("assistant", "", CALL),
        Message("tool", "3 metres", {"name": "tide"}),
        Message("assistant", "It is 3 metres."),
    ],
}


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    return {name: ChatTemplate(tokenizer_of(text)) for name, text in ALL.items()}


def own_prompt(template: ChatTemplate, messages: list[Message], name: str) -> str:
    """The prompt that the tokenizer's own `apply_chat_template` gives."""
    today = {"date_string": "26 Jul 2024", "strftime_now": lambda form: {"%Y": "2024"}.get(form, "2024-07-26")}
    turns: list[Any] = []
    for m in messages:
        thought, found, answer = m.content.removeprefix("<think>").partition("</think>")
        keys = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), thought.strip())
        apart = {"content": answer.lstrip("\n"), **keys} if found and name in APART else {"content": m.content}
        content = [{"type": "text", "text": apart["content"]}] if name in IN_PARTS else apart["content"]
        turns.append({"role": m.role, **apart, **m.extra, "content": content})
    tools = list(messages[0].tools) or None
    return template.tokenizer.apply_chat_template(
        turns, tools=tools, tokenize=False, add_generation_prompt=True, **today
    )


def sequences_of(template: ChatTemplate, messages: list[Message]) -> list[TokenSequence]:
    row = Conversation("x", tuple(messages), source="x:1")
    return template.sequences(template.conversation_parts(row), row, 0, 100_000)


def runs(template: ChatTemplate, sequence: TokenSequence) -> list[tuple[list[int], list[int]]]:
    """(tokens before, tokens of the response) of every response in a sequence."""
    mask, ids, out = sequence.loss_mask.tolist(), sequence.ids.tolist(), []
    for place in range(1, len(mask)):
        if mask[place] and not mask[place - 1]:
            end = next((k for k in range(place, len(mask)) if not mask[k]), len(mask))
            out.append((ids[:place], ids[place:end]))
    return out


def check(template: ChatTemplate, messages: list[Message]) -> None:
    """The properties of every template and every row."""
    sequences = sequences_of(template, messages)
    learnt = [k for k, m in enumerate(messages) if m.role == "assistant" and m.train]
    assert [turn for one in sequences for turn in one.turns] == learnt  # each turn once, in order
    for sequence in sequences:
        found = runs(template, sequence)
        assert len(found) == len(sequence.turns)
        for turn, (before, response) in zip(sequence.turns, found, strict=True):
            # The turn follows exactly the tokens that a sampler gets for it.
            assert before == template.encode_prompt(messages[:turn])
            text = template.tokenizer.decode(response)
            answer = messages[turn].content.split("</think>")[-1].strip()
            assert answer in text
            assert response[-1] in template.tokenizer.all_special_ids
            for tag in ("<think>", "<|im_start|>assistant", "<|start_header_id|>"):
                assert (template.tokenizer.decode(before[-8:]) + text).count(tag) <= 1 or tag != "<think>"
            prompt = template.render(messages[:turn], True)
            opened = prompt.rstrip().endswith("<think>")
            assert text.count("<think>") + opened == text.count("</think>")
        assert sequence.loss_mask[-1]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", list(ALL))
def test_known_templates(templates: dict[str, ChatTemplate], name: str, row: str) -> None:
    template, messages = templates[name], ROWS[row]
    if row == "tools" and not template.reads("tools"):
        pytest.skip("the template knows no tools")
    asked = [messages[:k] for k, m in enumerate(messages) if m.role == "assistant"]
    theirs: list[str] = []
    refused = ""
    try:
        theirs = [own_prompt(template, prompt, name) for prompt in asked]
    except Exception as error:
        refused = str(error)
    if refused:
        assert row in ("system", "tools")
        with pytest.raises(RenderError, match=r"^x:1: the chat template cannot render"):
            sequences_of(template, messages)
        return
    ours = [template.encode_prompt(prompt) for prompt in asked]
    for expected, ids in zip(theirs, ours, strict=True):
        text = template.tokenizer.decode(ids)
        appended = text if template.text.count("eos") or text == expected else text.replace("</s>", "")
        assert appended == expected  # a template without ends gets the tokenizer's end of text after each answer
    check(template, messages)
    lost = left_out(template, Conversation("x", tuple(messages)), template.parts(messages))
    if row in ("one turn", "three turns"):
        assert {text for text in lost if "an empty thought is learnt" not in text} == set()


def test_what_thinking_templates_learn(templates: dict[str, ChatTemplate]) -> None:
    def learnt(name: str, row: str, thinking: bool | None = None) -> list[str]:
        template = templates[name] if thinking is None else ChatTemplate(tokenizer_of(ALL[name]), thinking=thinking)
        found = sequences_of(template, ROWS[row])
        return [template.tokenizer.decode(one.ids[one.loss_mask]) for one in found]

    thought = ["<think>\nit is red\n</think>\n\nred", "<think>\nit is blue\n</think>\n\nblue"]
    assert learnt("qwen 3", "thoughts") == [f"{text}<|im_end|>" for text in thought]
    assert learnt("qwen 3", "one turn") == ["<think>\n\n</think>\n\nThe dog ran.<|im_end|>"]
    assert learnt("qwen 3", "one turn", thinking=False) == ["The dog ran.<|im_end|>"]
    assert learnt("qwen 3", "thoughts", thinking=False) == ["red<|im_end|>", "blue<|im_end|>"]
    assert learnt("qwen 3 5", "one turn") == ["\n</think>\n\nThe dog ran.<|im_end|>"]
    assert learnt("qwen 3 5", "thoughts") == [text.removeprefix("<think>\n") + "<|im_end|>" for text in thought]
    end = templates["deepseek r1"].tokenizer.eos_token
    assert learnt("deepseek r1", "thoughts") == [text.removeprefix("<think>\n") + end for text in thought]
    assert learnt("deepseek r1", "one turn") == [f"\n</think>\n\nThe dog ran.{end}"]
    assert learnt("gpt oss", "one turn") == ["<|channel|>final<|message|>The dog ran.<|return|>"]
    (called,) = learnt("gpt oss", "tools")
    assert called.startswith(' to=tide<|message|>{"port": "p0"}<|call|>')
    (called,) = learnt("llama 3", "tools")
    assert called == '{"name": "tide", "parameters": {"port": "p0"}}<|eot_id|>It is 3 metres.<|eot_id|>'


def test_thinking_needs_a_template_with_the_switch() -> None:
    for name in ("qwen 3", "qwen 3 5", "smollm 3", "granite"):
        kept, off = ChatTemplate(tokenizer_of(ALL[name])), ChatTemplate(tokenizer_of(ALL[name]), thinking=False)
        assert (kept.fingerprint == off.fingerprint) is False
    for name in ("llama 3", "gpt oss"):  # gpt-oss reads `thinking` of a message, which is no switch
        with pytest.raises(TutelageError, match=r"^`thinking: false`: the chat template has no `enable_thinking`"):
            ChatTemplate(tokenizer_of(ALL[name]), thinking=False)


WORDS = st.text(alphabet="ab \n1.?é猫<>{}'\"", min_size=1, max_size=12).filter(lambda text: bool(text.strip()))


@st.composite
def conversations(draw: Any) -> list[Message]:
    """Rows of 1 to 4 exchanges, some with thoughts, some turns without loss."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        out.append(Message("user", draw(WORDS)))
        thought = f"<think>\n{draw(WORDS).strip()}\n</think>\n\n" if draw(st.booleans()) else ""
        out.append(Message("assistant", thought + draw(WORDS).strip(), train=draw(st.booleans())))
    out[-1] = Message("assistant", out[-1].content)
    return out


@settings(deadline=None, max_examples=40)
@given(messages=conversations(), name=st.sampled_from(sorted(LOOK_ALIKES)))
def test_any_row_in_any_template(templates: dict[str, ChatTemplate], messages: list[Message], name: str) -> None:
    check(templates[name], messages)


@settings(deadline=None, max_examples=40)
@given(messages=conversations(), name=st.sampled_from(sorted(LOOK_ALIKES)), limit=st.integers(20, 120))
def test_any_limit(templates: dict[str, ChatTemplate], messages: list[Message], name: str, limit: int) -> None:
    """Sequences within a limit are the beginnings of the whole ones, and something that is lost is `cut`."""
    template, row = templates[name], Conversation("x", tuple(messages), source="x:1")
    whole = sequences_of(template, messages)
    try:
        cut = template.sequences(template.conversation_parts(row), row, 0, limit)
    except TutelageError:
        assert all(one.ids[:limit].tolist() == one.ids[:limit].tolist() for one in whole)
        return
    for one in cut:
        assert len(one.ids) <= limit
        assert any(one.ids.tolist() == full.ids[: len(one.ids)].tolist() for full in whole)
        assert one.loss_mask[one.prompt_length :].all()
    assert any(one.cut for one in cut) == (sum(o.response_tokens for o in cut) < sum(o.response_tokens for o in whole))
