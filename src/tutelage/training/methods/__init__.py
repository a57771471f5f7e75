"""Training methods beyond those built in. A method is a function from a ready training job, in which the teacher is
loaded and responses come from the student with probability λ, to the job that it wants. See docs/method.md."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.common.files import hash_file
from tutelage.training.job import Job
from tutelage.training.methods import policy_gradient

Method = Callable[[Job, dict[str, Any]], Job]

METHODS: Mapping[str, Method] = {"policy_gradient": policy_gradient.build}


def method_fingerprint(name: str) -> str:
    """Changes with the file that holds the method: what it made before is then not reused."""
    function, given = METHODS[name], ""
    while isinstance(function, partial):
        function, given = function.func, f"{given} {function.args} {function.keywords}"
    return hash_file(Path(inspect.getfile(function))) + given
