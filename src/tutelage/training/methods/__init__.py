"""Further training methods. A method is a function that changes a training job and returns it (docs/method.md).

In the job that it gets, the teacher is loaded and responses come from the student with probability λ.
"""

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
    """A text that changes with the method's file and with arguments bound by `partial`, for the fingerprint of runs."""
    function, arguments = METHODS[name], ""
    while isinstance(function, partial):
        function, arguments = function.func, f"{arguments} {function.args} {function.keywords}"
    return hash_file(Path(inspect.getfile(function))) + arguments
