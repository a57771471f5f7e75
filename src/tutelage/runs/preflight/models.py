"""What models say of themselves without their weights: whether they can be had, their shapes and their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import ModelConfig
from tutelage.recipe.stages import PruneConfig
from tutelage.runs.fingerprints import NOT_READ
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.preflight.unfinished import why_absent
from tutelage.runs.run import Run, maker_of

if TYPE_CHECKING:
    from tutelage.models.load import LoadedModel


def origin_of(run: Run, role: str) -> tuple[ModelConfig, tuple[PruneConfig, ...]]:
    """The model that no stage makes from which this one comes, and how it was cut, the first cut first."""
    maker = maker_of(run, role)
    if maker is None:
        return run.models[role], ()
    if maker.kind != "prune":
        return origin_of(maker, "student")
    config, cuts = origin_of(maker, "model")
    return config, (*cuts, maker.config.prune)


class Models:
    """The models of runs, each looked at once. Of a hub model the small files are read, from its cache, or from the hub
    if it may be asked."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._known: dict[str, tuple[list[Problem], LoadedModel | None]] = {}

    def problems(self, config: ModelConfig) -> list[Problem]:
        """What keeps it from being loaded."""
        return self._look(config)[0]

    def shape(self, config: ModelConfig) -> LoadedModel | None:
        """Its tokenizer, template and shapes, on the meta device; None where they are not known here."""
        return self._look(config)[1]

    def _look(self, config: ModelConfig) -> tuple[list[Problem], LoadedModel | None]:
        from tutelage.models.load import load_shape, small_files

        config = config.model_copy(update=NOT_READ)
        key = config.model_dump_json()
        if key not in self._known:
            found = self._file_problems(config)
            shape: LoadedModel | None = None
            if not found:
                try:
                    shape = small_files(config, load_shape, self.hub.network)
                except TutelageError as error:
                    named = "" if f"`{config.path}`" in str(error) else f"`{config.path}`: "
                    found = [Problem(f"{named}{error}")]
            self._known[key] = found, shape
        return self._known[key]

    def _file_problems(self, config: ModelConfig) -> list[Problem]:
        import torch

        from tutelage.models.files import locate
        from tutelage.models.load import read_weights

        found, template = [], config.chat_template
        if template not in ("auto", "tulu") and not Path(template).is_file():
            found.append(f"chat_template: there is no file `{template}`: give auto, tulu or the path of a Jinja file")
        try:
            path, content = locate(config)
            if content is not None:
                if config.revision is not None:
                    found.append(
                        f"revision: is for models of the hub, and `{config.path}` is a local one: remove `revision`"
                    )
                read_weights(config, path, torch.float32, meta=True)  # names and shapes, not values
            elif wrong := self.hub.problem(path, "model"):
                found.append(
                    why_absent(path)
                    or f"cannot load `{config.path}`: it is not a local folder, and {wrong}. Check the name, or give a "
                    "folder"
                )
        except TutelageError as error:
            found.append(str(error))
        return [Problem(text) for text in found]
