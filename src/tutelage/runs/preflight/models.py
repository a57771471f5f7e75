"""What models say of themselves without their weights: whether they can be had, their shapes and their tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tutelage.common.errors import TutelageError
from tutelage.recipe.sections import ModelConfig
from tutelage.runs.preflight.hub import Hub
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.preflight.unfinished import why_absent

if TYPE_CHECKING:
    from tutelage.models.load import LoadedModel
    from tutelage.runs.fingerprints import Reads

T = TypeVar("T")


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

    def template(self, config: ModelConfig) -> Reads | None:
        """Its chat template and context, whatever its weights are; None where they are not known here, or wrong."""
        from tutelage.models.files import locate
        from tutelage.models.load import load_template

        with contextlib.suppress(TutelageError):
            path, content = locate(config)
            if content is not None or self.hub.problem(path, "model") is None:
                return self._small_files(config, load_template)
        return None

    def _look(self, config: ModelConfig) -> tuple[list[Problem], LoadedModel | None]:
        same = {"attention": "auto", "lora": None, "precision": None, "tensor_parallel": None}  # whatever these are
        config = config.model_copy(update=same)
        key = config.model_dump_json()
        if key not in self._known:
            found = self._file_problems(config)
            shape: LoadedModel | None = None
            if not found:
                try:
                    shape = self._shape(config)
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

    def _shape(self, config: ModelConfig) -> LoadedModel | None:
        """Raises TutelageError where loading the model would."""
        from tutelage.models.load import load_shape

        return self._small_files(config, load_shape)

    def _small_files(self, config: ModelConfig, load: Callable[[ModelConfig], T]) -> T | None:
        from tutelage.models.files import hub_snapshot, is_here, locate

        path, content = locate(config)
        if content is None and config.tokenizer is None and (cached := hub_snapshot(path, config.revision)):
            with contextlib.suppress(TutelageError):  # it may be a part of the small files
                return load(config.model_copy(update={"path": str(cached), "revision": None}))
        return load(config) if self.hub.network or is_here(config) else None
