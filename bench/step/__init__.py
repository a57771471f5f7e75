"""One GKD step: SmolLM2 on a CPU (`smollm2`), the paper's shapes on a GPU (`paper`); `*_trl` are TRL's trainers."""
