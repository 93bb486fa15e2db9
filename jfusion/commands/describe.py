"""`jfusion describe`: a paragraph about each pair, written by a vision-language model behind an API."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jfusion.config import CommandOptions, setting
from jfusion.data import image
from jfusion.data.layout import Sample, task
from jfusion.data.layouts import DataSet, data_set_of
from jfusion.data.names import listed
from jfusion.errors import UserError, counted
from jfusion.files import check_output, read_text, remove_left
from jfusion.text import describe as text
from jfusion.text import prompts
from jfusion.text.answers import Expected
from jfusion.text.chat import SERVERS, Chat, Usage
from jfusion.text.features import token_counter

KEY = "OPENAI_API_KEY"
BASE = "OPENAI_BASE_URL"
SHORTEST = 25  # words, of an answer to a prompt of ours, which asks for 50


def base_url_setting() -> str | None:
    """The option `base_url` of every command that describes."""
    return setting(None, f"address of the server, such as {SERVERS} (default: ${BASE})", "ADDRESS")


def model_setting() -> str | None:
    """The option `model` of every command that describes."""
    return setting(
        None, "the vision-language model (default: the only one that the server offers)", "NAME"
    )


def key_setting() -> str | None:
    """The option `api_key_env` of every command that describes."""
    return setting(
        None,
        f"NAME of the environment variable that holds the API key (default: {KEY}, if it is set; local "
        "servers need none)",
        "VARIABLE",
    )


def from_setting() -> str | None:
    """The option `from_` of every command that reads a data set as downloaded."""
    return setting(
        None,
        "a data set as it was downloaded, whose layout is recognized (docs/own-data.md)",
        "FOLDER",
    )


def side_setting(side: str) -> str | None:
    """The options `a` and `b` of the same commands."""
    what = {"a": "infrared, MRI, over-exposed, near", "b": "visible, CT, under-exposed, far"}[side]
    return setting(None, f"the folder of one side instead: {what}", "FOLDER")


def name_setting() -> str | None:
    """The option `name` of the same commands."""
    return setting(
        None,
        "what to call the data set of --from or --a and --b, or which one is meant (default: its own "
        "name, or the folder's)",
    )


@dataclass(frozen=True)
class Options(CommandOptions):
    """The pairs, the server and its model, and what is asked of it."""

    task: str | None = setting(
        None, "IVF, MIF, MEF, MFF, NIR or PIF (default: IVF; with --from, that of its layout)"
    )
    dataset: str | None = setting(
        None, "folder name of the data set under --root (default: MSRS)", "NAME"
    )
    split: str = setting("all", "train, test, or another list; all: every pair", "NAME")
    root: str = setting("VLFDataset", "the folder that holds Image/ and gets Text/", "DIR")
    from_: str | None = from_setting()
    a: str | None = side_setting("a")
    b: str | None = side_setting("b")
    name: str | None = name_setting()
    base_url: str | None = base_url_setting()
    model: str | None = model_setting()
    api_key_env: str | None = key_setting()
    prompt: str | None = setting(
        None, "a text file to ask instead of the task's prompt (--show-prompt)", "FILE"
    )
    show_prompt: bool = setting(False, "print the prompt and do nothing else")
    images: Literal["auto", "two", "one"] = setting(
        "auto",
        "images in a request: two; one, with a third request that joins both answers; auto: one where the "
        "server refuses two",
    )
    max_edge: int = setting(
        768, "scale images down to this long edge in pixels", "PIXELS", least=16
    )
    image_format: Literal["jpeg", "png"] = setting("jpeg", "how images are sent, in 8 bits")
    max_tokens: int = setting(
        2048, "the most tokens of an answer, with what a model thinks before it", least=16
    )
    language: Literal["english", "any"] = setting(
        "english", "the language that an answer must have"
    )
    encoder: str = setting(
        "minilm", "the text encoder that will read the paragraphs, whose length is the limit"
    )
    workers: int = setting(4, "requests at the same time", least=1)
    timeout: float = setting(180.0, "seconds to wait for an answer", "SECONDS", above=0)
    retries: int = setting(
        6, "how often a request that failed for a passing reason is sent again", least=0
    )
    limit: int | None = setting(None, "describe at most so many pairs (default: all)", least=1)
    dry_run: bool = setting(
        False, "print how many pairs, tokens and, with --price, how much money, and send nothing"
    )
    price: tuple[float, float] | None = setting(
        None,
        "the price of a million tokens of requests and of answers (default: not counted)",
        ("INPUT", "OUTPUT"),
        least=0,
    )
    max_cost: float | None = setting(
        None,
        "stop before this call costs more, in the currency of --price (default: no limit)",
        "COST",
        least=0,
    )
    range: str = image.range_setting()
    max_pixels: float = image.max_pixels_setting()


@dataclass(frozen=True)
class Result:
    """The folder of the paragraphs, how many there were before, and what this call made of the rest."""

    folder: Path
    kept: int
    outcome: text.Outcome
    budget: text.Budget
    waiting: int  # pairs without a paragraph that were not tried: --limit, --max-cost


def run(options: Options) -> int:
    """Writes the paragraphs, and prints how many are new and which pairs were left out."""
    if options.show_prompt:
        print(_prompt(options, _task_alone(options)))
        return 0
    data = data_set_of(options)
    if options.from_ or options.a:
        print(data.why)
    if options.dry_run:
        print(_plan(options, data))
        return 0
    result = describe(options, data)
    outcome = result.outcome
    print(f"{result.folder}: {len(outcome.written)} new paragraphs, {result.kept} kept")
    print(f"  {_spent(result.budget)}")
    if outcome.too_expensive:
        print(f"note: stopped before --max-cost {options.max_cost:g}")
    if result.waiting:
        print(f"  not described yet: {counted(result.waiting, 'pair')}; the same command continues")
    if outcome.left_out:
        raise UserError(
            f"{counted(len(outcome.left_out), 'pair')} got no paragraph: {listed(outcome.left_out)} (the reasons are "
            f"above, and in {result.folder / text.RECORDS}); the same command tries them again, another "
            "--model or --prompt may do better"
        )
    return 0


def describe(options: Options, data: DataSet) -> Result:
    """Writes the paragraphs of the pairs of `options.split` that have none.

    Raises UserError when the server or the model cannot be used; what is written is kept.
    """
    _check(options)
    folder = _folder(options, data)
    samples = data.samples(options.split)
    records = text.read_records(folder)
    todo = _waiting(folder, samples, records)
    chosen = todo[: options.limit]
    prompt = _prompt(options, data.task)  # once, since it may be a pipe; nothing is written over it
    check_output(folder / text.RECORDS, "the paragraphs")
    remove_left(folder)
    stop, budget = threading.Event(), text.Budget(options.price, options.max_cost)
    if not chosen:
        return Result(folder, len(samples) - len(todo), text.Outcome(), budget, len(todo))
    file = text.RecordFile(folder / text.RECORDS)
    try:
        describer = _describer(options, data.task, prompt, budget, stop, file.add)
        describer.notes, describer.drafts = text.note_keys(records), text.draft_keys(records)
        if not any(r.get("prompt") == describer.prompt_hash for r in records):
            file.add({"name": "", "prompt": describer.prompt_hash, "text": describer.prompt})
        for side in "ab":
            describer.reader.prepare([getattr(sample, side) for sample in samples], side)
        outcome = text.describe_all(
            describer, chosen, folder, file, options.workers, stop, data.name
        )
    except KeyboardInterrupt:
        print(f"\nstopped; what is written stays in {folder}, and the same command continues")
        raise
    finally:
        stop.set()
        file.close()
    waiting = len(todo) - len(outcome.written) - len(outcome.left_out)
    return Result(folder, len(samples) - len(todo), outcome, budget, waiting)


def _waiting(folder: Path, samples: list[Sample], records: list[dict[str, Any]]) -> list[Sample]:
    """The samples without a paragraph; those that were left out before come last."""
    there = text.existing(folder)
    left_out = {record["name"] for record in records if "left_out" in record}
    todo = [sample for sample in samples if sample.name not in there]
    return sorted(todo, key=lambda sample: sample.name in left_out)


def _check(options: Options) -> None:
    if options.max_cost is not None and options.price is None:
        raise UserError("--max-cost needs --price INPUT OUTPUT, the price of a million tokens")


def _task_alone(options: Options) -> str:
    """The task whose prompt is shown: no data set needs to be there when it is named."""
    if options.task is None and (options.from_ or options.a):
        return data_set_of(options).task
    return options.task or "IVF"


def _folder(options: Options, data: DataSet) -> Path:
    return Path(options.root, "Text", data.task, data.name)


def _prompt(options: Options, task_name: str) -> str:
    """The prompt of the task, or the text of the file that is given."""
    task(task_name)
    if options.prompt is None:
        return prompts.default_prompt(task_name)
    prompt = read_text(options.prompt, "the prompt").strip()
    if not prompt:
        raise UserError(
            f"the prompt {options.prompt} is empty; --show-prompt prints one to begin with"
        )
    return prompt


def _describer(
    options: Options,
    task_name: str,
    prompt: str,
    budget: text.Budget,
    stop: threading.Event,
    keep: Any,
) -> text.Describer:
    base_url = options.base_url or os.environ.get(BASE)
    if not base_url:
        raise UserError(
            f"name the server with --base-url or ${BASE}: {SERVERS}; the images are sent to it"
        )
    key = options.api_key_env or (KEY if os.environ.get(KEY) else None)
    if options.api_key_env and options.api_key_env.isidentifier() and key not in os.environ:
        raise UserError("the environment variable that --api-key-env names is not set")
    chat = Chat(
        base_url,
        options.model or "",
        key,
        options.timeout,
        options.retries,
        options.max_tokens,
        stop,
    )
    if not chat.model:
        chat.model = _only_model(chat)
    count, most = token_counter(options.encoder)
    words = SHORTEST if options.prompt is None else 1
    return text.Describer(
        chat,
        task_name,
        prompt,
        Expected(count, most, words, options.language == "english"),
        image.Reader(options.range, options.max_pixels),
        text.ImageFormat(options.image_format, options.max_edge),
        budget,
        options.images,
        keep,
    )


def _only_model(chat: Chat) -> str:
    models = chat.models()
    if len(models) != 1:
        raise UserError(
            f"{chat.base_url} offers {counted(len(models), 'model')}; choose one that takes images with --model: "
            f"{listed(models, 20)}"
        )
    print(f"model: {models[0]}, the only one of {chat.base_url}")
    return models[0]


def _plan(options: Options, data: DataSet) -> str:
    """What a call without `--dry-run` would do."""
    _check(options)
    folder = _folder(options, data)
    samples, records = data.samples(options.split), text.read_records(folder)
    todo = _waiting(folder, samples, records)
    chosen = todo[: options.limit]
    prompt = _prompt(options, data.task)
    form = text.ImageFormat(options.image_format, options.max_edge)
    usage, source = text.estimate(records, chosen, data.task, prompt, options.model, form)
    budget = text.Budget(options.price)
    line = f"{len(chosen)} of {counted(len(samples), 'pair')} to describe ({len(samples) - len(todo)} have a paragraph)"
    cost = f", cost about {budget.cost(usage):.4f}" if options.price else "; --price adds the cost"
    return f"{line}\nabout {usage.input} tokens in, {usage.output} out ({source}){cost}"


def _spent(budget: text.Budget) -> str:
    used: Usage = budget.used
    cost = f", cost {budget.cost(used):.4f}" if budget.price else ""
    return f"{used.input} tokens in, {used.output} out{cost}"


def connection(options: Any, split: str) -> Options:
    """The options of a description that another command asks for, with the server that it names."""
    return replace(
        Options(root=options.root, split=split, encoder=options.text),
        base_url=options.base_url,
        model=options.model,
        api_key_env=options.api_key_env,
        range=options.range,
        max_pixels=options.max_pixels,
    )
