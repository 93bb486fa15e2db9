"""Starting and resuming training runs: the data, the system, the record, and what is checked first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jfusion import config as configs
from jfusion import runtime
from jfusion.checkpoint.weights import load_weights
from jfusion.config import SystemConfig
from jfusion.data.folder import ImageFolder, training_data
from jfusion.data.h5 import PairFile, check_encoder, encoder_of, ranges_of
from jfusion.data.loader import DataLoader, DatasetSchedule
from jfusion.errors import UserError
from jfusion.files import check_output
from jfusion.inference import open_checkpoint
from jfusion.runs import NullRun, Run, runs_in
from jfusion.runtime import jt, machine, mpi
from jfusion.runtime.cache import short_hash
from jfusion.systems.network import NetworkSystem
from jfusion.systems.registry import RENAMED_SYSTEMS, config_class, create, system_class
from jfusion.train.loop import Trainer
from jfusion.train.options import Options
from jfusion.train.validation import Validation, split
from jfusion.version import __version__

TrainingSet = PairFile | ImageFolder


def train(system_name: str, settings: dict[str, Any], options: Options) -> Run:
    """Trains the system called `system_name` from the start, in a new run folder, and returns the run.

    settings: those of its configuration that differ from the paper's; what they leave open, the data
    may decide (`SystemConfig.for_dataset`). Raises UserError before the first step when the data do
    not suit the system.
    """
    check_trainable(system_name)
    check_output(options.exp, "the run folder", folder=True)
    sets, schedule = training_sets(options)
    sets, held_out = split(sets, options)
    settings = settings_for(config_class(system_name), sets, settings)
    configs.from_dict(config_class(system_name), settings, system_name).check_training()
    system = create_system(system_name, settings, options.seed)
    check_data(system, sets)
    check_validation(system, held_out, sets[0])
    loader = loader_of_epoch(system, sets, schedule, options)
    if options.weights:
        _start_from(system, options, sets[0])
    dataset = sets[0].dataset if len(sets) == 1 else Path(options.data).resolve().name
    record = {
        "system": system_name,
        "config": configs.to_dict(system.config),
        "options": {
            **{f.name: getattr(options, f.name) for f in fields(Options) if f.name != "each"},
            "data": str(Path(options.data).absolute()),
            "val": None if options.val is None else str(Path(options.val).absolute()),
        },
        "dataset": dataset,
        **encoder_of(sets[0]),
        **ranges_of(sets[0]),
        "fingerprint": fingerprint(sets),
        "version": __version__,
        "precision": machine.precision(),
    }
    if mpi.first():
        run = Run.new(Path(options.exp), system_name, dataset, record)
    else:
        run = NullRun(Path(options.exp), record)
    with run.locked():
        validation = Validation.of(system, held_out, options.best)
        Trainer(system, loader, run, options, validation).train()
    return run


def resume(folder: str | Path, data: str | None = None, max_steps: int | None = None) -> Run:
    """Resumes the run in `folder` from its last checkpoint, exactly as it would have continued.

    data: where the training data are now, if they were moved. max_steps: a new end.
    """
    run = Run.open(Path(folder))
    record = present_record(run.record)
    data = data or record["options"].get("data")
    if data is None:
        raise UserError(f"{folder}/config.json: the options name no data; name them with --data")
    changed = {"data": data, "max_steps": max_steps}
    options = configs.from_dict(Options, {**record["options"], **changed}, f"{folder}/config.json")
    before, present = record.get("precision", "float32"), machine.precision()
    if before != present:
        print(f"note: the run began in {before} and is resumed in {present} ($JFUSION_PRECISION)")
    sets, schedule = training_sets(options)
    sets, held_out = split(sets, options)
    system = create_system(record["system"], record["config"], options.seed)
    check_data(system, sets)
    check_validation(system, held_out, sets[0])
    if system.reads_text:
        check_encoder(sets[0], record, f"run {folder}")
    record = {**record, "config": configs.to_dict(system.config)}
    same_data = record.get("fingerprint") in (None, fingerprint(sets))
    if not same_data:
        print(f"note: {options.data} is not as it was when the run began: its files have changed")
    run = (Run if mpi.first() else NullRun)(run.folder, record)
    with run.locked():
        loader = loader_of_epoch(system, sets, schedule, options)
        validation = Validation.of(system, held_out, options.best)
        trainer = Trainer(system, loader, run, options, validation)
        content = run.latest()
        if content is not None:
            trainer.load(content, same_data)
        elif options.weights:
            _start_from(system, options, sets[0])
        trainer.train()
    return run


def train_each(system_name: str, settings: dict[str, Any], options: Options) -> list[Run]:
    """Trains one network after another, each on one training set in the folder `options.data`.

    Started again, it resumes the newest run of the same system, settings and data. Raises UserError
    when there is no training set.
    """
    check_trainable(system_name)
    sets = training_sets(options)[0]
    if not isinstance(sets[0], PairFile) or not Path(options.data).is_dir():
        raise UserError(
            f"--each: {options.data} must be a folder of training sets, made with jfusion preprocess"
        )
    for path in sorted({*Path(options.data).glob("*.h5")} - {data.path for data in sets}):
        print(f"{path.name} is left out: it is no training set, or --schedule does not name it")
    cls, runs = config_class(system_name), []
    for data in sets:
        print(f"{data.dataset}: {data.path}")
        changed = settings_for(cls, [data], settings)
        before = _run_before(
            system_name, configs.from_dict(cls, changed, system_name), options, data
        )
        if before is None:
            chosen = replace(options, data=str(data.path), schedule="", each=False)
            runs.append(train(system_name, changed, chosen))
        else:
            runs.append(resume(before, max_steps=options.max_steps))
    return runs


def _run_before(
    system_name: str, config: SystemConfig, options: Options, data: PairFile
) -> Path | None:
    """The newest run of the same system, configuration and data; runs that cannot be read are skipped."""
    path = str(data.path.absolute())
    for run in runs_in(Path(options.exp)):
        if RENAMED_SYSTEMS.get(run.record["system"], run.record["system"]) != system_name:
            continue
        try:
            record = present_record(run.record)
            same = configs.from_dict(type(config), record["config"], str(run.folder)) == config
        except UserError as error:
            print(f"note: {error}; this run is skipped")
            continue
        if same and record["options"].get("data") == path:
            return run.folder
    return None


# ---- the system and its data


def create_system(name: str, settings: dict[str, Any], seed: int) -> NetworkSystem:
    """The system with its initial weights, drawn now: Jittor is lazy, and each step seeds it anew."""
    mpi.check_gpus()
    runtime.seed(seed)
    system = create(name, **settings)
    jt.sync_all()
    return system


def training_sets(options: Options) -> tuple[list[TrainingSet], Callable[[int], int]]:
    """The training sets that `--schedule` names, and a function from an epoch to one of their indices."""
    sets = training_data(options.data)
    schedule = DatasetSchedule([data.dataset for data in sets], options.seed, options.schedule)
    used = sorted(set(schedule.indices))
    return [sets[i] for i in used], lambda epoch: used.index(schedule.index(epoch))


def fingerprint(sets: Sequence[TrainingSet]) -> str:
    """A hash of the sample names, attributes and sizes of training sets, which changes when they change."""
    parts = [[data.names, data.size, data.attributes] for data in sets]
    return short_hash(json.dumps(parts, sort_keys=True, default=str))


def settings_for(
    cls: type[SystemConfig], sets: Sequence[TrainingSet], requested: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that the caller chose, and those that the training sets decide.

    Raises UserError when the sets disagree about a setting, unless it is by default "auto", which
    means that each pair decides.
    """
    requested = configs.renamed(cls, requested)
    decided = [cls.for_dataset(data.attributes) for data in sets]
    agreed = dict(decided[0])
    for data, values in zip(sets[1:], decided[1:], strict=True):
        for key in decided[0].keys() | values.keys():
            if decided[0].get(key) == values.get(key):
                continue
            agreed.pop(key, None)
            if key not in requested and getattr(cls, key, None) != "auto":
                raise UserError(
                    f"{sets[0].path} has {key} {decided[0].get(key)}, and {data.path} has "
                    f"{values.get(key)}; train a network for each of them with --each"
                )
    return {**agreed, **requested}


def loader_of_epoch(
    system: NetworkSystem,
    sets: Sequence[TrainingSet],
    schedule: Callable[[int], int],
    options: Options,
) -> Callable[[int], DataLoader]:
    """A function from an epoch to its batches; the system's configuration and the options decide them."""
    config, shard = system.config, (mpi.rank(), mpi.count())
    loaders = [
        DataLoader(
            data,
            config.batch_size,
            options.seed,
            config.crop,
            config.drop_last,
            config.augment,
            lambda pair: system.preprocess(pair, training=True),
            shard,
        )
        for data in sets
    ]
    for each in loaders:
        len(
            each
        )  # raises UserError for a data set of less than one batch, before a run folder is made
    return lambda epoch: loaders[schedule(epoch)]


def check_trainable(name: str) -> None:
    """Raises UserError when the system called `name` has nothing that is trained."""
    cls = system_class(name)
    if not issubclass(cls, NetworkSystem) or cls.losses is NetworkSystem.losses:
        raise UserError(f"{name} is not trained: it has no losses")


def check_data(system: NetworkSystem, sets: Sequence[TrainingSet]) -> None:
    """Raises UserError when the data are not what the system is trained on."""
    for data in sets:
        if isinstance(data, ImageFolder) and not system.config.TRAINS_ON_IMAGES:
            raise UserError(
                f"{data.path} is a folder, and {system.name} is trained on pairs; make an H5 file of "
                "them with: jfusion preprocess --task ... --dataset ..."
            )
        if system.reads_text:
            _check_width(system, data)


def check_validation(
    system: NetworkSystem, held_out: Sequence[PairFile], data: TrainingSet
) -> None:
    """Raises UserError when pairs of the validation have other paragraph features than those trained on."""
    check_data(system, held_out)
    for file in held_out if system.reads_text else ():
        check_encoder(file, encoder_of(data), f"the run on {data.path}")


def _check_width(system: NetworkSystem, data: TrainingSet) -> None:
    """Raises UserError unless the data have paragraph features of the width that the system reads."""
    width, text_dim = data.attributes.get("text_dim"), system.config.text_dim
    if width is None:
        raise UserError(f"{data.path} holds no paragraph features, which {system.name} needs")
    if width != text_dim:
        raise UserError(
            f"{data.path} holds features of width {width}, and {system.name} reads {text_dim}; set "
            f"--text-dim {width} or use the other encoder's features"
        )


def _start_from(system: NetworkSystem, options: Options, data: TrainingSet) -> None:
    """Loads the weights of the checkpoint `--weights`."""
    path, content = open_checkpoint(options.weights)
    where = f"checkpoint {path}"
    if system.reads_text:
        check_encoder(data, content, where)
    load_weights(system, content["model"], where, options.allow_partial, consume=True)


# ---- runs of older versions


def present_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run as this version writes it: the crop was an option of the run once.

    Settings and options that were only renamed keep their old names: `config.from_dict` knows them.
    """
    if missing := {"config", "options"} - record.keys():
        raise UserError(f"the run's config.json has no {' and no '.join(sorted(missing))}")
    config, options = dict(record["config"]), dict(record["options"])
    if "crop" in options:
        config["crop"] = options.pop("crop")
    system = RENAMED_SYSTEMS.get(record["system"], record["system"])
    config, options = config_class(system).from_old_run(config, options)
    return {**record, "system": system, "config": config, "options": options}
