"""Instructions that the loss kernel executes per logit, its registers and what it spills, for sm_90; needs no GPU.

    python -m bench.loss_sass                             # the launches of triton_launch.WIDE at 128,256 logits
    python -m bench.loss_sass --block 8192 --warps 8 --registers 128 --pieces 16

Counted per logit of the vocabulary (a student's and a teacher's), in a program that is neither the row's first nor its
last and does not hold the largest logit: one of 29 or more of a row's 32.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tutelage.loss.triton_kernel import loss_kernel
from tutelage.loss.triton_launch import WIDE, LaunchConfig, programs_of

WIDTH = 128_256
# KIND and TEACHER of the kernel, and the entry of WIDE
OBJECTIVES = {"jsd": (1, True, "mean"), "forward_kl": (2, True, "teacher"), "cross_entropy": (0, False, "label")}
POINTERS = {"labels": "*i64", "gradient": "*bf16", "arrived": "*i32"}
FLOATS = ("s", "s_bias", "t", "t_bias", "weights", "values", "statistics", "scratch")


def compiled(objective: str, statistics: bool, config: LaunchConfig) -> Any:
    kind, teacher, _ = OBJECTIVES[objective]
    programs = programs_of(config, WIDTH)
    constants: dict[str, Any] = dict.fromkeys(("S_BIASED", "T_BIASED"), False) | {"S_MAP": 0, "T_MAP": 0}
    constants |= {"TEACHER": teacher, "KIND": kind, "HALF": True, "HARD": not teacher, "STATISTICS": statistics}
    constants |= {"VALUES": True, "GRADIENT": True, "IN_REGISTERS": True}
    constants |= {"BLOCK": config.block, "PIECES": config.pieces, "PROGRAMS": programs}
    types = POINTERS | dict.fromkeys(FLOATS, "*fp32") | {"count": "i32", "width": "i32"}
    names: list[str] = loss_kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "fp32") for name in names}
    divisible = [i for i, name in enumerate(names) if signature[name].startswith("*") or name == "width"]
    attributes: Any = {(i,): [["tt.divisibility", 16]] for i in divisible}
    values: Any = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(loss_kernel, signature, values, attributes)
    options = {"num_warps": config.warps} | ({} if config.registers is None else {"maxnreg": config.registers})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def blocks_of(sass: str) -> list[list[str]]:
    """Instructions, cut where a branch ends or leads to."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", sass, re.M)
    targets = {int(place, 16) for _, text in lines for place in re.findall(r"BRA.*0x([0-9a-f]+)", text)}
    blocks: list[list[str]] = [[]]
    for place, text in lines:
        if int(place, 16) in targets:
            blocks.append([])
        blocks[-1].append(text)
        if re.search(r"\b(BRA|EXIT|BAR|RET)", text):
            blocks.append([])
    return [block for block in blocks if block]


def executed(blocks: list[list[str]]) -> int:
    """Instructions of all blocks up to the exit of most programs, without masked loads and the search of a maximum."""
    total, loaded = 0, False
    for i, block in enumerate(blocks):
        kinds = Counter(re.sub(r"@!?U?P\w+ ", "", text).split()[0].split(".")[0] for text in block)
        loads, search = kinds["LDG"] >= 8, kinds["VIMNMX"] + kinds["VIMNMX3"] >= 3 and not kinds["MUFU"]
        if not (search or (loads and loaded)):
            total += kinds.total() - kinds["NOP"]
        loaded = loaded or loads
        if i > 0.6 * len(blocks) and re.search(r"@!?P\d EXIT", block[-1]):
            break
    return total


def measure(objective: str, statistics: bool, config: LaunchConfig) -> dict[str, float]:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled(objective, statistics, config).asm["cubin"])
        file.flush()
        dump = [str(folder / "cuobjdump"), "-sass", "-res-usage", file.name]
        text = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None
    per_logit = executed(blocks_of(text)) * config.warps * 32 / config.block
    return {"executed_per_logit": per_logit, "registers": int(found[1]), "stack_bytes": int(found[2])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("block", "warps", "registers", "pieces"):
        parser.add_argument(f"--{name}", type=int, help="instead of the launch's own")
    changes = {name: value for name, value in vars(parser.parse_args()).items() if value}
    for objective, (_, _, entry) in OBJECTIVES.items():
        config = LaunchConfig(**(vars(WIDE[entry]) | changes))
        for statistics in (False, True):
            found = ", ".join(f"{name} {value:g}" for name, value in measure(objective, statistics, config).items())
            print(f"{objective}{' with statistics' * statistics}: {found}", flush=True)


if __name__ == "__main__":
    main()
