"""The `prune` stage: a model with fewer layers."""

from __future__ import annotations

from typing import Any

import torch

from tutelage.common.progress import progress
from tutelage.common.types import TokenSequence
from tutelage.models.checkpoints.save import save_model
from tutelage.models.load import load_model
from tutelage.models.sharding import decoder_layers
from tutelage.models.surgery.prune import choose_layers, perplexity, prune_layers
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded

CALIBRATION_LENGTH = 1024  # tokens per calibration row


def prune(run: Run) -> dict[str, Any]:
    """Save the run's model with the layers that its config keeps or chooses; returns the content of result.json.

    With calibration rows, the result has the model's perplexity on them before and after.
    """
    config, device = run.config.prune, torch.device(run.device)
    loaded = load_model(run.models["model"], device, torch.float32)
    total = len(decoder_layers(loaded.model))
    calibration: list[TokenSequence] = []
    result: dict[str, Any] = {"kind": "prune", "stage": run.stage, "seed": run.seed, "layers": total}
    if config.calibration is not None:
        calibration = [
            *encoded(run, config.calibration, loaded, CALIBRATION_LENGTH).sequences[: config.calibration_rows]
        ]
    with torch.autocast(run.device, torch.bfloat16, enabled=run.device == "cuda"):
        if calibration:
            result["perplexity_before"] = perplexity(loaded, calibration, device)
        with progress(f"{run.stage}: choosing layers", total - (config.layers or total), unit="layers") as bar:
            keep = choose_layers(config, loaded, calibration, device, bar.advance)
        prune_layers(loaded.model, keep)
        result["keep"] = keep
        if calibration:
            result["perplexity_after"] = perplexity(loaded, calibration, device)
    template = loaded.template
    save_model(loaded.model, loaded.tokenizer, run.folder / "model", template.text, template.end_of_turn_ids)
    return result
