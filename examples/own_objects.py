"""GKD with objects in memory: a student that transformers does not know learns from a teacher that it does.

python examples/own_objects.py
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import tutelage

TEACHER = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = [{"prompt": f"What is {a} and {b}?", "completion": f"It is {a + b}."} for a in range(12) for b in range(12)]


class Recurrent(nn.Module):
    """A small recurrent language model; the three methods are all that `Trainer` asks of a module."""

    def __init__(self, vocabulary: int, width: int = 128) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(vocabulary, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_decoder(self) -> nn.Module:
        return self

    def forward(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        """Token ids [B, L] to hidden states [B, L, D]."""
        return self.cell(self.embedding(input_ids))[0]


teacher, tokenizer = AutoModelForCausalLM.from_pretrained(TEACHER), AutoTokenizer.from_pretrained(TEACHER)
student = Recurrent(teacher.config.vocab_size)
trainer = tutelage.Trainer(
    student,
    tokenizer,
    ROWS,
    teacher=teacher.float(),
    validation=ROWS[:16],
    batch_size=16,
    max_length=128,
    learning_rate=3e-3,
    on_policy=0.25,
    sampling={"max_new_tokens": 16},
)
print(f"{trainer.steps} steps")
print(trainer.run())
torch.save(student.state_dict(), "recurrent.pt")
