"""What one does with a model: `chat`, `export` and `serve-teacher`. Heavy imports stay inside functions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from tutelage.cli.options import Debug, Revision, TensorParallel, TrustRemoteCode, visible
from tutelage.cli.outcome import say_notes

MODEL_HELP = "A folder in models/ or its name, the folder of a run, any model folder, a GGUF file, or a hub id."


def chat(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    other: Annotated[str | None, typer.Argument(help="Another model, which answers the same questions.")] = None,
    system: Annotated[
        str | None, typer.Option(help="A system turn before the conversation.", show_default="of its training rows")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest token each time.")] = 0.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="The longest answer.", show_default="its recipe's, else its generation config's, else 256"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws, with a temperature.")] = 0,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Talk to a model, or to two side by side. /reset, /system TEXT and /quit; a pipe's lines are questions.

    tutelage chat models/mine-gkd

    tutelage chat mine-gkd mine-sft_again --temperature 0.7
    """
    from tutelage.delivery.chat import ChatSettings, Speaker
    from tutelage.delivery.chat import chat as talk
    from tutelage.delivery.find_model import find_loadable, has_one_question, system_of
    from tutelage.delivery.outdated import outdated_notes

    found = [find_loadable(model, revision), *([] if other is None else [find_loadable(other)])]
    for one in found:
        say_notes(outdated_notes(one.folder))
    settings, speakers = ChatSettings(temperature, max_new_tokens, seed), []
    for one in found:
        if sys.stderr.isatty():
            print(f"loading {one.name} …", file=sys.stderr)
        speakers.append(Speaker(one, settings, revision if one is found[0] else None, trust_remote_code))
    if system is None:
        learnt = {system_of(one) for one in found}
        system = learnt.pop() if len(learnt) == 1 else ""
        if system:
            print(f"system: {visible(system)} (as in its training rows; --system '' for none)", file=sys.stderr)
    talk(speakers, system, all(has_one_question(one) for one in found))


def export(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="exports/<name>")] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None, typer.Option(help="Type of the weights.", show_default="as they are")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add an adapter to the weights of its base.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="Also write a GGUF file, by llama.cpp's script.")] = False,
    push: Annotated[str | None, typer.Option(help="Upload it to the hub as ORG/NAME, private unless --public.")] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see.")] = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Write a model as a folder for transformers and others, with its card; on request as GGUF, and to the hub.

    tutelage export models/mine-gkd --out exports/mine-gkd --dtype bfloat16

    tutelage export mine-gkd --gguf --push my-account/mine-gkd
    """
    from tutelage.delivery import export as exporting
    from tutelage.delivery.find_model import find_loadable
    from tutelage.delivery.outdated import outdated_notes

    found = find_loadable(model, revision)
    say_notes(outdated_notes(found.folder))
    if gguf:
        exporting.find_converter()
    if push is not None:
        exporting.check_push(push)
    made = exporting.export_model(found, out or Path("exports") / found.name, dtype, merge, revision, trust_remote_code)
    say_notes(made.notes)
    print(f"Model: {made.folder}")
    if gguf:
        print(f"GGUF:  {exporting.write_gguf(made.folder, found.name, dtype)}")
    if push is not None:
        print(f"Hub:   {exporting.push(made.folder, push, private=not public)}")


def serve_teacher(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8700,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto: bfloat16 on CUDA, else float32.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model is.")] = "auto",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens read at once: more takes more memory.")] = 16_384,
    tensor_parallel: TensorParallel = 1,
    revision: Revision = None,
    attention: Annotated[
        Literal["auto", "packed", "padded"], typer.Option(help="As in a recipe's model section.")
    ] = "auto",
    trust_remote_code: TrustRemoteCode = False,
    debug: Debug = False,
) -> None:
    """Serve a teacher to the distill stages that name its address as `signal.served`; many may use one.

    tutelage serve-teacher runs/teacher_sft-s0-0123456789ab

    tutelage serve-teacher meta-llama/Llama-3.1-70B-Instruct --tensor-parallel 4 --host 0.0.0.0
    """
    from tutelage.delivery.find_model import find_loadable
    from tutelage.recipe.sections import ModelConfig
    from tutelage.runs.planner import resolve_device
    from tutelage.teachers.server import load_server, refuse_open, serve

    refuse_open(host)
    path = find_loadable(model, revision).path
    loading = {"attention": attention, "trust_remote_code": trust_remote_code, "tensor_parallel": tensor_parallel}
    config = ModelConfig(path=path, revision=revision, **loading)
    made = load_server(config, resolve_device(device), precision, tokens)
    serve(made, host, port, lambda line: print(line, flush=True))
