"""The `scops` command: every verb with its options. What a verb does stands in a file of its own, imported when it is asked."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import scops

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="scops", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings=HELP
)
data_app = typer.Typer(no_args_is_help=True, context_settings=HELP)
app.add_typer(data_app, name="data", help="Look at a data set as a system will read it.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Model = Annotated[
    str, typer.Argument(help="A folder, a .gguf file, a size (scops ls) or a hub id.", show_default=False)
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: as the weights are kept.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the fastest there is.")]
Quantise = Annotated[
    str | None,
    typer.Option(help="int8 or int4: the language model's weights, rounded after loading; adapters are merged."),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="The most tokens of a reply.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"scops {scops.__version__}")
        raise typer.Exit


@app.callback()
def scops_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error print the whole traceback.")] = False,
) -> None:
    """Multimodal language models from one small set of parts: build, train, talk to, measure, convert."""


@app.command()
def ls(json: AsJson = False) -> None:
    """List systems, their sizes and the parts they are made of."""
    from scops.cli.ls import ls

    ls(json=json)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A system, a size or a folder.", show_default=False)],
    figure: Annotated[Path | None, typer.Option(help="Draw its architecture into this .svg file.")] = None,
    json: AsJson = False,
) -> None:
    """Show a system: paper, sizes, parameters by role, stages, sources, key layouts."""
    if figure is not None:
        from scops.cli.figure import write

        write(name, figure, json=json)
        return
    from scops.cli.info import info

    info(name, json=json)


@app.command()
def cost(
    name: Annotated[str, typer.Argument(help="A size or a folder.", show_default=False)],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to the sizes of its parts.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHT, or a picture or document; may be given often.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option(help="SECONDS or SECONDS@FPS, or a video; may be given often.")
    ] = None,
    pages: Annotated[int, typer.Option(min=0, help="So many pages of A4.")] = 0,
    text: Annotated[str, typer.Option(help="The words of the question, or how many tokens they are.")] = "0",
    max_tokens: MaxTokens = 256,
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A folder with one, where NAME has none.")] = None,
    json: AsJson = False,
) -> None:
    """Tell before anything is loaded what a question will take: tokens, parameters, FLOPs, memory."""
    from scops.cli.cost import cost

    cost(
        name, changes or [], images=image or [], videos=video or [], pages=pages, text=text, max_tokens=max_tokens,
        dtype=dtype, quantise=quantise, tokenizer=tokenizer, json=json,
    )  # fmt: skip


@app.command()
def chat(
    model: Model,
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES and TEXT]...",
            help="Pictures, PDFs, videos and words in any order; none: a conversation.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the system turn says.")] = None,
    max_tokens: MaxTokens = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the best token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k best tokens; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the best tokens that together reach p.")] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Only tokens with at least this share of the best one's probability.")
    ] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes repeating less likely.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same words.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End the reply before these words; may be given often.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    quantise: Quantise = None,
    json: AsJson = False,
) -> None:
    """Talk to a model: scops chat MODEL a.png b.png "What is new in the second?"."""
    from scops.cli.chat import chat
    from scops.generate.sampler import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
    chat(
        model, parts or [], system=system, sampling=sampling, limit=max_tokens, stop=stop or [],
        dtype=dtype, device=device, quantise=quantise, json=json,
    )  # fmt: skip


@app.command()
def train(
    run: Annotated[
        Path, typer.Argument(help="A run's YAML file, or a run's folder to go on with.", show_default=False)
    ],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to the run.")] = None,
) -> None:
    """Train a system through its stages, as a run's file says."""
    from scops.cli.train import train

    train(run, changes or [])


@app.command()
def demo(
    pictures: Annotated[
        list[Path] | None, typer.Argument(help="Pictures of yours that owl-tiny is to look at.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/demo"),
    each: Annotated[int, typer.Option(min=1, help="Held-out questions per group and task.")] = 24,
) -> None:
    """Tell the whole story: a shipped system answers, a small one is trained live, both are examined, a report is written."""
    from scops.demo.story import tell

    tell(folder, pictures=pictures or [], each=each)


@app.command("eval")
def evaluate(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Rows with the assistant's answers.", show_default=False)],
    limit: Limit = None,
    batch: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 8,
    max_tokens: MaxTokens = 64,
    out: Annotated[
        Path | None, typer.Option(help="Write the whole result, prompts and replies included, here.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    quantise: Quantise = None,
    json: AsJson = False,
) -> None:
    """Answer a data file and compare: exact, truth contained, BLEU, ROUGE-L, CIDEr, per task."""
    from scops.cli.evaluate import evaluate

    evaluate(
        model, data, limit=limit, batch=batch, max_tokens=max_tokens, out=out, dtype=dtype, device=device,
        quantise=quantise, json=json,
    )  # fmt: skip


@app.command()
def score(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.", show_default=False)],
    text: Annotated[list[str], typer.Option(help="A text; may be given often.")],
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Say how alike pictures and texts are, and how likely each belong together."""
    from scops.cli.retrieve import score

    score(model, pictures, text, dtype=dtype, device=device, json=json)


@app.command()
def retrieve(
    model: Model,
    among: Annotated[
        Path, typer.Argument(help="A folder of pictures, or a file with a text on each line.", show_default=False)
    ],
    text: Annotated[str | None, typer.Option(help="Find the pictures that it belongs to.")] = None,
    image: Annotated[Path | None, typer.Option(help="Find the texts that belong to it.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 10,
    judged: Annotated[
        int, typer.Option(min=0, help="So many of the most alike are looked at together with the question.")
    ] = 32,
    keep: Annotated[bool, typer.Option(help="Keep the pictures' vectors for the next time.")] = True,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Find pictures by a text, or texts by a picture, the best first."""
    from scops.cli.retrieve import retrieve

    retrieve(
        model, among, text=text, image=image, top=top, judged=judged, keep=keep, dtype=dtype, device=device, json=json
    )


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(show_default=False)],
    model: Annotated[str, typer.Option(help="Whose template, tokenizer and pictures are used.")] = "owl-tiny",
    limit: Limit = None,
    json: AsJson = False,
) -> None:
    """Count rows, pictures, tokens and what would be dropped, and why."""
    from scops.cli.data import check

    check(path, model=model, limit=limit, json=json)


@data_app.command("show")
def data_show(
    path: Annotated[Path, typer.Argument(show_default=False)],
    model: Annotated[str, typer.Option(help="Whose template, tokenizer and pictures are used.")] = "owl-tiny",
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
) -> None:
    """Print a few rows as the model reads them; what is learnt stands out in colour."""
    from scops.cli.data import show

    show(path, model=model, limit=limit)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="What `scops chat` takes as a model.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet.", show_default=False)],
    layout: Annotated[
        str, typer.Option(help="scops, authors or transformers (scops info says which exist).")
    ] = "scops",
    merge: Annotated[bool, typer.Option("--merge", help="Fold LoRA adapters into the weights.")] = False,
    quantise: Quantise = None,
    dtype: Dtype = "auto",
    json: AsJson = False,
) -> None:
    """Write a model's folder in another layout."""
    from scops.cli.convert import convert

    convert(source, target, layout=layout, merge=merge, quantise=quantise, dtype=dtype, json=json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(show_default=False)],
    golden: Annotated[
        Path | None, typer.Option(help="A folder with inputs.safetensors and outputs.safetensors.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Check a folder: keys, shapes, dtypes, NaNs, ties, tokenizer; and outputs, if a golden is given."""
    from scops.cli.verify import verify

    if not verify(folder, golden=golden, json=json):
        raise typer.Exit(1)


@app.command()
def env(json: AsJson = False) -> None:
    """Print what a bug report needs: versions, processor, torch, cache."""
    from scops.cli.env import env

    env(json=json)


def main(arguments: list[str] | None = None) -> None:
    """The entry point: an error is one clear line and a status other than 0; --debug, anywhere, shows the traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in own
    try:
        app([*(a for a in own if a != "--debug"), *arguments[len(own) :]])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone; what is still buffered must not raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(f"error: {explained(error)}", file=sys.stderr)
        sys.exit(1)


def explained(error: Exception) -> str:
    """The error's own words; what is not meant for users is named as a fault of ours."""
    words = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, ValueError | OSError | RuntimeError | KeyError | ImportError) and words:
        return words
    return f"{type(error).__name__}: {words or 'no message'} (a fault of scops; --debug shows where, please report it)"


if __name__ == "__main__":
    main()
